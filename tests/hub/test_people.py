"""People and groups by the command line, and what the log-in page says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from platform_fixture import Person, Platform

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

Make = Callable[..., Person]


def listed(platform: Platform, name: str) -> dict[str, object]:
    return next(p for p in json.loads(platform.himalia("users", "list", "--json")) if p["name"] == name)


def test_a_wrong_password_is_answered_with_a_sentence_and_no_login(person: Make):
    ada = person()
    ada.password = "wrong"
    answer = ada.login()
    assert answer.status_code == 403
    assert "do not go together" in answer.text
    assert ada.session.get(f"{ada.platform.url}/hub/home").url.path == "/hub/login"


def test_up_prints_how_the_first_admin_logs_in(platform: Platform):
    found = re.search(r"Log in as (\S+) with the password (\S+)", platform.welcome)
    assert found, platform.welcome
    first = Person(platform, found.group(1), found.group(2))
    assert first.login().url.path == "/hub/home"
    assert first.session.get(f"{platform.url}/hub/admin").status_code == 200
    first.session.close()


def test_an_admin_is_one_in_the_hub_after_logging_in(person: Make):
    ada = person(admin=True)
    ada.login()
    assert ada.session.get(f"{ada.platform.url}/hub/admin").status_code == 200
    ben = person("ben")
    ben.login()
    assert ben.session.get(f"{ben.platform.url}/hub/admin").status_code == 403


def test_a_new_password_replaces_the_old_one_while_the_hub_runs(person: Make):
    ada = person()
    former = ada.password
    ada.password = ada.platform.himalia("users", "password", ada.name).split("password ")[1].split()[0]
    assert ada.password != former
    assert ada.login().url.path == "/hub/home"


def test_somebody_who_is_there_is_not_made_again(person: Make):
    ada = person()
    ada.platform.himalia("users", "add", ada.name, code=1)


@pytest.mark.parametrize("name", ["himalia", "a--b", "a b"])
def test_a_name_that_cannot_be_is_refused(platform: Platform, name: str):
    platform.himalia("users", "add", name, code=1)


def test_groups_are_made_joined_left_and_removed(platform: Platform, person: Make):
    ada = person()
    group = f"group-of-{ada.name}"
    platform.group(group, ada)
    assert listed(platform, ada.name)["groups"] == [group]
    platform.himalia("groups", "leave", group, ada.name)
    assert listed(platform, ada.name)["groups"] == []
    platform.himalia("groups", "remove", group)
    assert group not in platform.himalia("groups", "list")


def test_a_person_has_our_scopes_on_their_own_things_and_no_right_to_servers_of_others(person: Make):
    ada, ben = person("ada"), person("ben")
    scopes = set(ada.hub("GET", "/user").json()["scopes"])
    assert f"custom:himalia:jobs:write!user={ada.name}" in scopes
    assert not {s for s in scopes if s.startswith("custom:") and not s.endswith(f"!user={ada.name}")}
    assert ada.hub("POST", f"/users/{ben.name}/server").status_code == 404


def test_another_name_of_this_machine_says_where_himalia_is(platform: Platform, person: Make):
    ada = person()
    page = ada.session.get(f"http://127.0.0.1:{platform.home.port}/hub/login")
    assert 'id="elsewhere"' in page.text
    assert platform.url in page.text
