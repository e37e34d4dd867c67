"""Logging in and out by browser: the hub's OAuth with PKCE, a state nobody can forge, and no way to anywhere else afterwards."""

from __future__ import annotations

from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from himalia_services.api.auth import COOKIE
from himalia_services.api.login import local
from himalia_services.settings import Settings
from service.assertions import assert_problem
from service.fakehub import FakeHub

HTML = {"Accept": "text/html,*/*", "Sec-Fetch-Mode": "navigate"}
PAGE = "/services/himalia/"


async def begin(visitor: httpx.AsyncClient, next: str = PAGE) -> dict[str, str]:
    """Go to the login; what the hub is asked."""
    answer = await visitor.get("/services/himalia/login", params={"next": next}, headers=HTML)
    assert answer.status_code == 302
    return {k: v[0] for k, v in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


async def agree(visitor: httpx.AsyncClient, hub: FakeHub, asked: dict[str, str], name: str = "ada") -> httpx.Response:
    """The hub sends the browser back with a code."""
    hub.person(name)
    hub.codes["code"] = (hub.token(name), asked["code_challenge"])
    return await visitor.get(
        "/services/himalia/oauth_callback", params={"code": "code", "state": asked["state"]}, headers=HTML
    )


async def test_a_login_ends_on_the_page_with_a_cookie_of_ours(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    answer = await agree(visitor, hub, await begin(visitor))
    assert (answer.status_code, answer.headers["Location"]) == (302, PAGE)
    page = await visitor.get(PAGE, headers=HTML)
    assert page.status_code == 200
    assert "<strong>ada</strong>" in page.text


async def test_the_hub_is_asked_on_its_own_origin(visitor: httpx.AsyncClient, settings: Settings) -> None:
    answer = await visitor.get("/services/himalia/login", headers=HTML)
    where = answer.headers["Location"]
    assert where.startswith(f"{settings.public_url}/hub/api/oauth2/authorize?")
    asked = {k: v[0] for k, v in parse_qs(urlsplit(where).query).items()}
    assert asked["redirect_uri"] == f"{settings.service_url}/oauth_callback"
    assert (asked["client_id"], asked["response_type"], asked["code_challenge_method"]) == (
        "service-himalia",
        "code",
        "S256",
    )
    assert len(asked["state"]) >= 32


async def test_cookies_are_out_of_reach_of_scripts_and_other_paths(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    asked = await begin(visitor)
    answer = await agree(visitor, hub, asked)
    cookies = SimpleCookie()
    for header in answer.headers.get_list("Set-Cookie"):
        cookies.load(header)
    login = cookies[COOKIE]
    assert (login["path"], login["httponly"], login["samesite"], login["domain"]) == (PAGE, True, "lax", "")
    assert not any(token in login.value for token in hub.tokens)


async def test_a_person_who_is_not_logged_in_is_led_to_the_login_and_back(
    visitor: httpx.AsyncClient, hub: FakeHub
) -> None:
    answer = await visitor.get("/services/himalia/api/v1/me?x=1", headers=HTML)
    assert answer.status_code == 302
    next = parse_qs(urlsplit(answer.headers["Location"]).query)["next"][0]
    back = await agree(visitor, hub, await begin(visitor, next))
    assert back.headers["Location"] == "/services/himalia/api/v1/me?x=1"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Accept": "*/*"}),
        ("GET", {"Accept": "application/json"}),
        ("GET", {"Accept": "text/html", "Sec-Fetch-Mode": "cors"}),
        ("POST", {"Accept": "text/html"}),
    ],
)
async def test_programs_are_never_led_to_a_login(
    visitor: httpx.AsyncClient, method: str, headers: dict[str, str]
) -> None:
    answer = await visitor.request(
        method, "/services/himalia/api/v1/workspaces", headers=headers, json={} if method == "POST" else None
    )
    assert_problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("state", ["", "wrong", "x" * 43])
async def test_a_state_that_is_not_this_browser_s_is_refused(
    visitor: httpx.AsyncClient, hub: FakeHub, state: str
) -> None:
    asked = await begin(visitor)
    assert_problem(await agree(visitor, hub, asked | {"state": state}), 403, "login_state")
    assert_problem(await agree(visitor, hub, asked | {"state": asked["state"][:8] + "x" * 35}), 403, "login_state")
    assert COOKIE not in visitor.cookies


async def test_a_login_another_browser_began_is_refused(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    asked = await begin(visitor)
    visitor.cookies.clear()
    assert_problem(await agree(visitor, hub, asked), 403, "login_state")


async def test_a_code_for_another_challenge_is_refused(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    asked = await begin(visitor)
    hub.codes["code"] = (hub.token("ada"), "another-challenge")
    answer = await visitor.get("/services/himalia/oauth_callback", params={"code": "code", "state": asked["state"]})
    assert_problem(answer, 401, "login_failed")


async def test_a_hub_that_says_no_is_a_403(visitor: httpx.AsyncClient) -> None:
    asked = await begin(visitor)
    answer = await visitor.get(
        "/services/himalia/oauth_callback", params={"error": "access_denied", "state": asked["state"]}
    )
    assert_problem(answer, 403, "login_refused")


async def test_two_logins_side_by_side_both_end(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    first, second = await begin(visitor), await begin(visitor)
    for asked in (second, first):
        assert (await agree(visitor, hub, asked)).status_code == 302


async def test_a_login_at_another_address_goes_to_the_right_one(visitor: httpx.AsyncClient, settings: Settings) -> None:
    answer = await visitor.get("http://127.0.0.1:18082/services/himalia/login?next=/services/himalia/x", headers=HTML)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(f"{settings.service_url}/login?next=")
    assert not answer.headers.get_list("Set-Cookie")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//evil.example/services/himalia/",
        "https://evil.example/services/himalia/",
        "/services/himalia",
        "/services/himaliax/",
        "/services/himalia/../../hub/logout",
        "\\\\evil.example",
        "/services/himalia/\\evil",
        "/services/himalia/\r\nSet-Cookie: a=b",
        "/services/himalia/ä",
        "javascript:alert(1)",
        "/hub/logout",
    ],
)
def test_after_a_login_nobody_is_sent_elsewhere(path: str) -> None:
    assert local(path) == PAGE


@pytest.mark.parametrize(
    "path",
    ["/services/himalia/", "/services/himalia/jobs?status=Running&x=..", "/services/himalia/environments/ada/vision"],
)
def test_after_a_login_people_are_where_they_wanted(path: str) -> None:
    assert local(path) == path


async def test_logging_out_forgets_the_cookie_and_ends_the_hub_s_session(
    visitor: httpx.AsyncClient, hub: FakeHub, settings: Settings
) -> None:
    await agree(visitor, hub, await begin(visitor))
    answer = await visitor.get("/services/himalia/logout", headers=HTML)
    assert answer.headers["Location"] == f"{settings.public_url}/hub/logout"
    assert COOKIE not in visitor.cookies
    assert (await visitor.get(PAGE, headers=HTML)).status_code == 302


async def test_the_page_cannot_be_framed_and_runs_no_script(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    hub.person("<script>alert(1)</script>")
    await agree(visitor, hub, await begin(visitor), "<script>alert(1)</script>")
    page = await visitor.get(PAGE, headers=HTML)
    assert "<script" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert page.headers["Cache-Control"] == "no-store"
