"""Logging in at the service through the real hub: OAuth with PKCE on the hub's own origin, and what ends with the hub's logout."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from himalia_services.hub import TOKEN_SECONDS
from platform_fixture import Person, Platform, browser, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

HTML = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
FETCH = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}


def service(platform: Platform, path: str = "/") -> str:
    return f"http://himalia--service.{platform.home.domain}:{platform.home.port}/services/himalia{path}"


def enter(somebody: Person) -> httpx.Response:
    """Open the service's page as somebody who is not logged in yet: the hub asks for the password and sends the browser back."""
    page = somebody.session.get(service(somebody.platform), headers=HTML)
    assert urlsplit(str(page.url)).netloc == urlsplit(somebody.platform.url).netloc, (
        "a password belongs on the hub's own origin"
    )
    return somebody.submit(page, {"username": somebody.name, "password": somebody.password})


def me(somebody: Person, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return somebody.session.get(
        service(somebody.platform, "/api/v1/me"), headers={"Accept": "application/json", **FETCH, **named}
    ).status_code


def test_the_page_leads_through_the_hub_s_login_and_back(platform: Platform, person: Callable[..., Person]) -> None:
    ada = person()
    page = enter(ada)
    assert (page.status_code, str(page.url)) == (200, service(platform))
    assert f"<strong>{ada.name}</strong>" in page.text
    assert page.headers["Content-Security-Policy"].count("frame-ancestors 'none'") == 1

    xsrf = page.text.partition('name="xsrf" content="')[2].partition('"')[0]
    assert me(ada) == 403
    assert me(ada, X_XSRFToken=xsrf) == 200


def test_who_is_logged_in_at_the_hub_is_not_asked_again(platform: Platform, person: Callable[..., Person]) -> None:
    ada = person()
    ada.login()
    page = ada.session.get(service(platform), headers=HTML)
    assert (page.status_code, str(page.url)) == (200, service(platform))
    assert f"<strong>{ada.name}</strong>" in page.text


def test_logging_out_takes_back_the_token(platform: Platform, person: Callable[..., Person]) -> None:
    ada = person()
    page = enter(ada)
    xsrf = page.text.partition('name="xsrf" content="')[2].partition('"')[0]
    assert me(ada, X_XSRFToken=xsrf) == 200
    thief = browser(cookies=httpx.Cookies(ada.session.cookies))
    ada.session.get(service(platform, "/logout"), headers=HTML)
    assert me(ada, X_XSRFToken=xsrf) == 401

    def stolen() -> int:
        headers = {"Accept": "application/json", **FETCH, "X-XSRFToken": xsrf}
        return thief.get(service(platform, "/api/v1/me"), headers=headers).status_code

    until(lambda: stolen() == 401, "a copy of the cookie is worth nothing", TOKEN_SECONDS + 10)
    thief.close()


def test_a_token_of_the_hub_opens_the_api_and_a_revoked_one_does_not(
    platform: Platform, person: Callable[..., Person]
) -> None:
    ada = person()
    answer = ada.hub("POST", f"/users/{ada.name}/tokens", json={"note": "test"})
    assert answer.status_code == 201, answer.text
    made = answer.json()

    def status() -> int:
        address = f"http://{platform.home.gateway}:{platform.home.port + 82}/services/himalia/api/v1/me"
        return httpx.get(address, headers={"Authorization": f"Bearer {made['token']}"}, trust_env=False).status_code

    assert status() == 200
    assert ada.hub("DELETE", f"/users/{ada.name}/tokens/{made['id']}").status_code == 204
    until(lambda: status() == 401, "the revoked token is refused", TOKEN_SECONDS + 10)
