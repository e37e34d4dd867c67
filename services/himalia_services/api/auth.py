"""Who asks, and whether their token may do this: hub tokens in a header, or the sealed cookie of a browser's login.

A cookie alone proves nothing about who made a browser send it, so beyond plain navigation the XSRF token must come along. Tokens in
URLs are not looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from himalia import scopes
from himalia_services.api.deps import Deps
from himalia_services.control import person
from himalia_services.errors import Forbidden, HimaliaError, Unauthorized
from himalia_services.hub import Identity
from himalia_services.model.caller import Caller
from himalia_services.parts import Parts
from himalia_services.settings import SERVICE

COOKIE = f"service-{SERVICE}"
SESSION_COOKIE = "jupyterhub-session-id"
XSRF_HEADER = "X-XSRFToken"
ENTER = frozenset({"access:services", f"access:services!service={SERVICE}"})
#: A token that itself administers the hub. One that does not is no admin's here either: the token in an admin's workspace is in reach
#: of whatever programs run there.
HUB_ADMIN = "admin:users"

_HEADER = re.compile(r"(?:token|bearer) +(\S+) *", re.IGNORECASE)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Seal:
    """Makes cookies that only we can read and write, and the XSRF token that belongs to one login."""

    def __init__(self, key: str) -> None:
        self._fernet = Fernet(key.encode())
        self._secret = hashlib.sha256(b"xsrf\0" + key.encode()).digest()

    def close(self, value: dict[str, str]) -> str:
        return self._fernet.encrypt(json.dumps(value).encode()).decode()

    def open(self, sealed: str, max_age: int | None = None) -> dict[str, str]:
        """What was sealed; empty when it is not ours, was changed or is older than `max_age` seconds."""
        try:
            return json.loads(self._fernet.decrypt(sealed.encode(), ttl=max_age))
        except (InvalidToken, ValueError):
            return {}

    def xsrf(self, token: str) -> str:
        return hmac.new(self._secret, hashlib.sha256(token.encode()).digest(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Credential:
    token: str
    via: Literal["token", "cookie"]


def credential(connection: HTTPConnection, seal: Seal) -> Credential | None:
    """What the request came with; a header is taken before a cookie and never together with it."""
    if (header := connection.headers.get("Authorization")) is not None:
        found = _HEADER.fullmatch(header)
        return Credential(found[1], "token") if found else None
    logins = {token for sealed in _cookies(connection, COOKIE) if (token := seal.open(sealed).get("t"))}
    if len(logins) > 1:
        # a page on another host below the same domain can set a cookie for us too, and nothing tells which is ours
        raise Forbidden(
            "The browser sent two logins at once. Delete the cookies of this site and log in again.",
            code="cookie_twice",
        )
    return Credential(logins.pop(), "cookie") if logins else None


def _cookies(connection: HTTPConnection, name: str) -> list[str]:
    """Every value of a cookie that came more than once."""
    pairs = (pair.partition("=") for header in connection.headers.getlist("Cookie") for pair in header.split(";"))
    return [value.strip().strip('"') for key, _, value in pairs if key.strip() == name]


def browsing(method: str, connection: HTTPConnection) -> bool:
    """Whether a cookie alone will do: a safe method, sent by navigation, or by our own page for an image or the like."""
    mode = connection.headers.get("Sec-Fetch-Mode")
    own = mode == "no-cors" and connection.headers.get("Sec-Fetch-Site") == "same-origin"
    return method in _SAFE and (mode in (None, "navigate") or own)


async def identity(request: Request, parts: Parts) -> tuple[Identity, Credential]:
    """Whose request it is; Unauthorized or Forbidden with a sentence."""
    seal: Seal = request.app.state.seal
    given = credential(request, seal)
    if given is None:
        raise Unauthorized("This needs a login, or a token in the header Authorization: Bearer.")
    if given.via == "cookie" and not browsing(request.method, request):
        sent = request.headers.get(XSRF_HEADER, "")
        if not hmac.compare_digest(sent.encode(), seal.xsrf(given.token).encode()):
            raise Forbidden(
                "A request with the login's cookie needs the header X-XSRFToken of the page it comes from. Reload the page.",
                code="xsrf",
            )
    found = await parts.hub.identify(given.token, request.cookies.get(SESSION_COOKIE, ""))
    if found is None:
        raise Unauthorized(
            "The hub does not know this token: it may be revoked or expired. Log in again.", code="token_unknown"
        )
    if found.kind != "user":
        raise Forbidden("This is a token of a service; Himalia takes tokens of people.", code="not_a_person")
    if ENTER.isdisjoint(found.scopes):
        raise Forbidden(
            f"This token may not use Himalia: it lacks the scope access:services!service={SERVICE}.", code="scope"
        )
    return found, given


async def caller(
    request: Request,
    parts: Deps,
    _documented: Annotated[object, Depends(HTTPBearer(auto_error=False, scheme_name="token"))] = None,
) -> Caller:
    """Any person whose token may enter."""
    found, given = await identity(request, parts)
    powerful = given.via == "cookie" or HUB_ADMIN in found.scopes
    return Caller(
        name=found.name,
        person_id=await person_id(parts, found),
        admin=scopes.ADMIN in found.scopes or (found.admin and powerful),
        groups=found.groups,
        scopes=found.scopes,
        token_id=found.token_id,
        via=given.via,
    )


async def person_id(parts: Parts, found: Identity) -> str:
    async with parts.db.read() as session:
        if (known := await person.known(session, found.name, found.created)) is not None:
            return known.id
    async with parts.db.write() as session:
        return (await person.seen(session, found.name, found.created)).id


Asking = Annotated[Caller, Depends(caller)]


def needs(scope: str) -> Callable[[Caller], Caller]:
    """A dependency: a caller whose token has `scope`, as in `needs("jobs:write")`."""
    full = f"{scopes.PREFIX}:{scope}"

    def dependency(caller: Asking) -> Caller:
        if not caller.may(full):
            raise Forbidden(
                f"This token may not do this: it lacks the scope {full}. Make one with it on the hub's token page.",
                code="scope",
                scope=full,
            )
        return caller

    return dependency


def alive(request: Request, parts: Parts) -> Callable[[], Awaitable[bool]]:
    """Asks whether the login of a request still counts, for answers that go on for long. A hub that is away says nothing against it."""

    async def ask() -> bool:
        try:
            await identity(request, parts)
        except (Unauthorized, Forbidden):
            return False
        except HimaliaError:
            return True
        return True

    return ask
