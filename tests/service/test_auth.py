"""Who is let in: tokens and cookies, scopes, and what a cookie alone may not do."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from himalia import scopes
from himalia_services.api.auth import COOKIE, XSRF_HEADER
from himalia_services.hub import TOKEN_SECONDS
from himalia_services.parts import Parts
from himalia_services.settings import Settings
from himalia_services.store import tables as t
from service.assertions import assert_problem
from service.conftest import ClientFor, Clock
from service.fakehub import ENTER, FakeHub

ME = "/services/himalia/api/v1/me"


class Browser:
    """A browser that is logged in: it has the sealed cookie and knows the XSRF token of the page."""

    def __init__(self, client: httpx.AsyncClient, app: FastAPI, token: str) -> None:
        self.client = client
        self.cookie = {"Cookie": f"{COOKIE}={app.state.seal.close({'t': token})}"}
        self.xsrf = app.state.seal.xsrf(token)

    async def send(self, method: str, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, path, headers=self.cookie | named)


@pytest.fixture
def browser(visitor: httpx.AsyncClient, app: FastAPI, hub: FakeHub) -> Browser:
    return Browser(visitor, app, hub.token("ada"))


# Tokens


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "token", "Token"])
async def test_a_token_says_who_somebody_is(visitor: httpx.AsyncClient, hub: FakeHub, scheme: str) -> None:
    hub.person("ada", groups=["vision"])
    answer = await visitor.get(ME, headers={"Authorization": f"{scheme} {hub.token('ada')}"})
    me = answer.json()
    assert (me["name"], me["admin"], me["groups"]) == ("ada", False, ["vision"])
    assert "custom:himalia:jobs:read!user=ada" in me["scopes"]


async def test_nobody_is_told_how_to_log_in(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get(ME)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header", ["Bearer nobody", "Bearer", "Basic YWRhOmFkYQ==", "Bearer \xe4\xf6", "Bearer a b", ""]
)
async def test_what_is_no_token_of_the_hub_is_refused(visitor: httpx.AsyncClient, header: str) -> None:
    answer = await visitor.get(ME, headers=[(b"Authorization", header.encode("latin-1"))])
    assert answer.status_code == 401


async def test_a_token_in_the_address_is_not_looked_at(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    token = hub.token("ada")
    for name in ("token", "access_token"):
        assert (await visitor.get(ME, params={name: token})).status_code == 401
    assert ("GET", "/user") not in hub.calls


async def test_a_revoked_token_is_refused_once_the_memory_of_it_is_over(
    client_for: ClientFor, hub: FakeHub, clock: Clock
) -> None:
    ada = client_for("ada")
    assert (await ada.get("/me")).status_code == 200
    hub.tokens.clear()
    assert (await ada.get("/me")).status_code == 200
    clock.advance(TOKEN_SECONDS)
    assert_problem(await ada.get("/me"), 401, "token_unknown")


async def test_a_refusal_is_not_remembered(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    token = hub.token("ada")
    known = hub.tokens.pop(token)
    headers = {"Authorization": f"Bearer {token}"}
    assert (await visitor.get(ME, headers=headers)).status_code == 401
    hub.tokens[token] = known
    assert (await visitor.get(ME, headers=headers)).status_code == 200


async def test_the_hub_is_asked_once_for_a_token_in_use(client_for: ClientFor, hub: FakeHub) -> None:
    ada = client_for("ada")
    for _ in range(5):
        assert (await ada.get("/me")).status_code == 200
    assert hub.calls.count(("GET", "/user")) == 1


async def test_another_session_of_the_browser_asks_the_hub_anew(
    visitor: httpx.AsyncClient, app: FastAPI, hub: FakeHub
) -> None:
    browser = Browser(visitor, app, hub.token("ada"))
    for session in ("one", "one", "two"):
        browser.cookie = {"Cookie": browser.cookie["Cookie"].partition("; ")[0] + f"; jupyterhub-session-id={session}"}
        assert (await browser.send("GET", ME)).status_code == 200
    assert hub.calls.count(("GET", "/user")) == 2


async def test_a_hub_that_is_away_is_a_503_and_nobody_gets_in(client_for: ClientFor, hub: FakeHub) -> None:
    ada = client_for("ada")
    await hub.stop()
    answer = await ada.get("/me")
    assert_problem(answer, 503, "hub_unavailable")
    assert answer.headers["Retry-After"]


async def test_a_hub_with_an_error_of_its_own_is_a_503(client_for: ClientFor, hub: FakeHub) -> None:
    hub.refuse("GET", "/user", 502, "bad gateway")
    assert_problem(await client_for("ada").get("/me"), 503, "hub_unavailable")


async def test_a_token_of_a_service_is_no_person(visitor: httpx.AsyncClient, hub: FakeHub) -> None:
    answer = await visitor.get(ME, headers={"Authorization": f"Bearer {hub.service('himalia-operator')}"})
    assert_problem(answer, 403, "not_a_person")


# Scopes


async def test_a_token_without_the_service_s_access_scope_is_kept_out(client_for: ClientFor) -> None:
    assert_problem(await client_for("ada", scopes=["custom:himalia:jobs:write!user"]).get("/me"), 403, "scope")


async def test_a_token_may_what_its_scopes_say(client_for: ClientFor) -> None:
    reader = client_for("ada", scopes=[ENTER, "custom:himalia:environments:read!user"])
    assert (await reader.get("/environments")).status_code == 200
    problem = assert_problem(
        await reader.patch("/environments/ada/vision", json={"visibility": "private"}), 403, "scope"
    )
    assert problem["scope"] == "custom:himalia:environments:write"


async def test_somebody_else_s_filter_opens_nothing(client_for: ClientFor) -> None:
    assert_problem(
        await client_for("ada", scopes=[ENTER, "custom:himalia:environments:read!user=ben"]).get("/environments"),
        403,
        "scope",
    )


async def test_a_token_that_administers_the_hub_is_an_admin_s(client_for: ClientFor) -> None:
    assert (await client_for("root", admin=True).get("/me")).json()["admin"] is True


async def test_the_token_in_an_admin_s_workspace_is_no_admin_s(client_for: ClientFor) -> None:
    """Programs of other people's environments run there, with that token in their reach."""
    workspace = [ENTER, *(f"{scope}!user" for scope in scopes.PERSON)]
    assert (await client_for("root", admin=True, scopes=workspace).get("/me")).json()["admin"] is False


async def test_the_admin_scope_makes_an_admin(client_for: ClientFor) -> None:
    assert (await client_for("ada", scopes=[ENTER, scopes.ADMIN]).get("/me")).json()["admin"] is True


# People


async def test_a_name_given_again_is_another_person(
    client_for: ClientFor, hub: FakeHub, parts: Parts, clock: Clock
) -> None:
    await client_for("ada").get("/me")
    hub.people["ada"].created = "2026-12-24T00:00:00.000000Z"
    await client_for("ada").get("/me")
    async with parts.db.read() as session:
        people = (await session.scalars(select(t.Person).where(t.Person.name == "ada"))).all()
    assert len({person.id for person in people}) == 2


async def test_somebody_stays_the_same_person(client_for: ClientFor, parts: Parts) -> None:
    for _ in range(2):
        await client_for("ada").get("/me")
    async with parts.db.read() as session:
        assert len((await session.scalars(select(t.Person))).all()) == 1


# Cookies


async def test_a_browser_that_navigates_needs_the_cookie_only(browser: Browser) -> None:
    assert (await browser.send("GET", ME, Sec_Fetch_Mode="navigate")).status_code == 200


MODES = [None, "navigate", "cors", "no-cors", "same-origin", "websocket"]
SITES = [None, "same-origin", "same-site", "cross-site", "none"]
REAL = {
    "GET": ME,
    "PATCH": "/services/himalia/api/v1/environments/ada/none",
    "DELETE": "/services/himalia/api/v1/environments/ada/none",
}


def fetch_headers(mode: str | None, site: str | None) -> dict[str, str]:
    return {name: value for name, value in (("Sec_Fetch_Mode", mode), ("Sec_Fetch_Site", site)) if value}


@pytest.mark.parametrize("method", REAL)
async def test_a_cookie_alone_does_nothing_but_navigate(browser: Browser, method: str) -> None:
    for mode in MODES:
        for site in SITES:
            answer = await browser.send(method, REAL[method], **fetch_headers(mode, site))
            if method == "GET" and (mode in (None, "navigate") or (mode == "no-cors" and site == "same-origin")):
                assert answer.status_code == 200, (mode, site)
            else:
                assert_problem(answer, 403, "xsrf")


@pytest.mark.parametrize("method", REAL)
async def test_with_the_page_s_xsrf_token_a_cookie_does_all(browser: Browser, method: str) -> None:
    for mode in MODES:
        answer = await browser.send(
            method, REAL[method], **fetch_headers(mode, "same-origin"), **{XSRF_HEADER: browser.xsrf}
        )
        assert answer.status_code in (200, 404, 422), (mode, answer.text)


@pytest.mark.parametrize("wrong", ["", "x", "0" * 64, "\xe4"])
async def test_a_wrong_xsrf_token_is_refused(browser: Browser, wrong: str) -> None:
    headers = [
        (b"Cookie", browser.cookie["Cookie"].encode()),
        (b"X-XSRFToken", wrong.encode("latin-1")),
        (b"Sec-Fetch-Mode", b"cors"),
    ]
    assert_problem(await browser.client.get(ME, headers=headers), 403, "xsrf")


async def test_the_xsrf_token_of_another_login_is_refused(browser: Browser, app: FastAPI, hub: FakeHub) -> None:
    other = app.state.seal.xsrf(hub.token("ada"))
    assert_problem(await browser.send("GET", ME, Sec_Fetch_Mode="cors", X_XSRFToken=other), 403, "xsrf")


async def test_a_header_goes_before_the_cookie(browser: Browser, hub: FakeHub) -> None:
    answer = await browser.send("GET", ME, Authorization=f"Bearer {hub.token('ben')}", Sec_Fetch_Mode="cors")
    assert answer.json()["name"] == "ben"
    assert (await browser.send("GET", ME, Authorization="Bearer nobody")).status_code == 401


@pytest.mark.parametrize("cookie", ["", "x", "gAAAAAB", '{"t": "a"}'])
async def test_a_cookie_we_did_not_seal_is_no_login(browser: Browser, cookie: str) -> None:
    browser.cookie = {"Cookie": f"{COOKIE}={cookie}"}
    assert_problem(await browser.send("GET", ME), 401, "unauthorized")


async def test_two_logins_at_once_are_refused(browser: Browser, app: FastAPI, hub: FakeHub) -> None:
    """A page on another host below our domain can add a cookie of its own to ours."""
    theirs = app.state.seal.close({"t": hub.token("mallory")})
    browser.cookie = {"Cookie": f"{browser.cookie['Cookie']}; {COOKIE}={theirs}"}
    assert_problem(await browser.send("GET", ME), 403, "cookie_twice")


async def test_rubbish_beside_our_cookie_changes_nothing(browser: Browser) -> None:
    browser.cookie = {"Cookie": f"{COOKIE}=rubbish; {browser.cookie['Cookie']}"}
    assert (await browser.send("GET", ME)).json()["name"] == "ada"


async def test_the_seal_needs_its_key(settings: Settings, app: FastAPI) -> None:
    from cryptography.fernet import Fernet

    from himalia_services.api.auth import Seal

    sealed = Seal(Fernet.generate_key().decode()).close({"t": "stolen"})
    assert app.state.seal.open(sealed) == {}


# The hub's own door


async def test_the_internal_api_is_the_hub_s_only(internal: httpx.AsyncClient, hub: FakeHub) -> None:
    path = "/internal/options"
    for header in ("", "Bearer wrong", f"Bearer {hub.token('ada')}", f"token {hub.token('ada')}"):
        assert_problem(await internal.get(path, headers={"Authorization": header}), 401, "unauthorized")


async def test_the_internal_api_is_not_on_the_public_port(visitor: httpx.AsyncClient) -> None:
    for path in (
        "/internal/options",
        "/services/himalia/internal/options",
        "/services/himalia/api/v1/internal/options",
    ):
        assert (await visitor.get(path)).status_code == 404
