"""Where Himalia is and with which token: the order of logins, the addresses, the stored file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from himalia import login
from himalia.errors import NotLoggedIn, Unavailable
from himalia.login import Login, find, hub_url, service_url
from scripted_platform import Answer, ScriptedPlatform, ok, serve

SERVICE = "http://himalia--service.himalia.localhost:8000/services/himalia"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (SERVICE, SERVICE),
        (f"{SERVICE}/", SERVICE),
        (f"{SERVICE}/api/v1/me", SERVICE),
        ("http://himalia.localhost:8000", SERVICE),
        ("himalia.localhost:8000", SERVICE),
        ("http://himalia.localhost:8000/hub/home", SERVICE),
        ("https://himalia.example.org", "https://himalia--service.himalia.example.org/services/himalia"),
        ("http://172.30.0.1:8082/services/himalia", "http://172.30.0.1:8082/services/himalia"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/services/himalia"),
    ],
)
def test_the_hubs_address_and_the_services_own_both_mean_the_service(given: str, meant: str) -> None:
    assert service_url(given, {}) == meant


def test_with_path_routing_the_service_is_on_the_hubs_own_host() -> None:
    assert (
        service_url("http://hub.example.org/jupyter/hub", {"HIMALIA_ROUTING": "path"})
        == "http://hub.example.org/jupyter/services/himalia"
    )


def test_the_hubs_address_follows_from_the_services() -> None:
    assert hub_url(SERVICE) == "http://himalia.localhost:8000"
    assert hub_url("http://hub.example.org/jupyter/services/himalia") == "http://hub.example.org/jupyter"


def test_what_the_caller_says_comes_first_then_the_variable_then_the_workspace_then_the_stored_login(
    env: dict[str, str],
) -> None:
    login.store(Login(SERVICE, "stored", "", "ada"), env)
    assert find(env=env).token == "stored"
    inside = env | {
        "HIMALIA_WORKSPACE": "ws-1",
        "HIMALIA_URL": "http://172.30.0.1:8082/services/himalia",
        "JUPYTERHUB_API_TOKEN": "workspace",
    }
    assert find(env=inside).token == "workspace"
    assert find(env=inside | {"HIMALIA_TOKEN": "variable"}).token == "variable"
    assert find(token="argument", env=inside | {"HIMALIA_TOKEN": "variable"}).token == "argument"


def test_a_token_is_only_ever_sent_to_the_platform_it_belongs_to(env: dict[str, str]) -> None:
    login.store(Login(SERVICE, "stored", ""), env)
    with pytest.raises(NotLoggedIn):
        find("http://elsewhere.example.org", env=env)
    inside = env | {"HIMALIA_URL": "http://172.30.0.1:8082/services/himalia", "JUPYTERHUB_API_TOKEN": "workspace"}
    with pytest.raises(NotLoggedIn):
        find("http://elsewhere.example.org", env=inside)


def test_a_job_has_no_token_and_does_not_take_the_one_in_its_owners_home(env: dict[str, str]) -> None:
    login.store(Login(SERVICE, "stored", ""), env)
    with pytest.raises(NotLoggedIn, match="This job has no token"):
        find(env=env | {"HIMALIA_JOB": "job-1", "HIMALIA_URL": SERVICE})
    assert find(env=env | {"HIMALIA_JOB": "job-1", "HIMALIA_TOKEN": "given"}).token == "given"


def test_without_any_login_the_sentence_says_what_to_do(env: dict[str, str]) -> None:
    with pytest.raises(NotLoggedIn, match="himalia login"):
        find(env=env)


def test_the_stored_login_is_its_owners_alone_and_replaces_the_one_before(env: dict[str, str]) -> None:
    login.store(Login(SERVICE, "one", ""), env)
    path = login.store(Login(SERVICE, "two", "", "ada"), env)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"url": SERVICE, "user": "ada", "token": "two"}
    assert os.listdir(path.parent) == ["login.json"]
    assert login.forget(env)
    assert not login.forget(env)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": 1', "\x00"])
def test_a_stored_login_that_is_broken_is_none(env: dict[str, str], text: str) -> None:
    path = login.path_of_login(env)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert login.stored(env) is None


def test_no_token_is_shown_when_a_login_is_printed() -> None:
    assert "secret" not in repr(Login(SERVICE, "secret", "argument"))


def test_importing_the_sdk_loads_neither_httpx_nor_the_command_line() -> None:
    code = "import sys, himalia; print([m for m in ('httpx', 'ssl', 'typer', 'rich', 'himalia.client') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestSignIn:
    @pytest.fixture
    def platform(self):
        with serve() as platform:
            yield platform

    def test_a_name_and_a_password_become_a_token_with_few_scopes(self, platform: ScriptedPlatform) -> None:
        platform.on("POST", "//hub/api/users/ada/tokens", ok({"token": "made"}, 201))
        made = login.sign_in(platform.hub, "ada", "pass word")
        (asked,) = platform.calls("POST", "//hub/api/users/ada/tokens")
        assert (made.token, made.url) == ("made", platform.url)
        assert asked.json["auth"] == {"username": "ada", "password": "pass word"}
        assert asked.json["scopes"] == list(login.LOGIN_SCOPES)
        assert asked.json["expires_in"] > 0
        assert not any(scope.startswith(("servers", "admin", "tokens")) for scope in login.LOGIN_SCOPES)

    def test_a_wrong_password_is_a_sentence(self, platform: ScriptedPlatform) -> None:
        platform.on("POST", "//hub/api/users/ada/tokens", Answer(403, b'{"message": "Forbidden"}'))
        with pytest.raises(NotLoggedIn, match="no such name and password"):
            login.sign_in(platform.hub, "ada", "wrong")

    def test_a_hub_that_makes_no_token_says_why(self, platform: ScriptedPlatform) -> None:
        platform.on("POST", "//hub/api/users/ada/tokens", ok({"message": "Scopes too wide"}, 400))
        with pytest.raises(Unavailable, match="Scopes too wide"):
            login.sign_in(platform.hub, "ada", "right")

    def test_a_hub_that_does_not_answer_is_a_sentence(self) -> None:
        with pytest.raises(Unavailable, match="Is it up"):
            login.sign_in("http://himalia.localhost:9", "ada", "right")
