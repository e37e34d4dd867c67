"""The only place that talks to JupyterHub: who a token belongs to, login by OAuth, people, groups, servers.

Everything the hub refuses or leaves unanswered becomes one of our errors; nothing here keeps state but a short memory of tokens.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx

from himalia_services.errors import Conflict, HimaliaError, HubUnavailable, NotFound, Unauthorized
from himalia_services.settings import SERVICE, SERVICE_PATH, Settings

#: How long what the hub said of a token is believed: a revoked one works that much longer, at most.
TOKEN_SECONDS = 5.0
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
#: The hub answers a start after up to ten seconds, a stop after what the processes are given to end.
SLOW = httpx.Timeout(60.0, connect=5.0)
PAGE = 200
CLIENT_ID = f"service-{SERVICE}"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose token it is. `created` is when the hub made this person: a name may be given twice."""

    name: str
    kind: str
    admin: bool
    groups: tuple[str, ...]
    scopes: frozenset[str]
    token_id: str
    created: str = ""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as the hub has it; `pending` is "spawn", "stop" or empty."""

    name: str
    display_name: str
    ready: bool
    stopped: bool
    pending: str
    started: str
    last_activity: str
    user_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class User:
    name: str
    admin: bool
    created: str
    groups: tuple[str, ...]
    servers: Mapping[str, Server]


@dataclass(frozen=True)
class Challenge:
    """A pair of PKCE (RFC 7636): the verifier stays with us, the challenge goes to the hub."""

    verifier: str
    challenge: str

    @classmethod
    def fresh(cls) -> Self:
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        return cls(verifier, base64.urlsafe_b64encode(digest).decode().rstrip("="))


class Hub:
    """The hub by its REST API, with the service's own token for background work and people's tokens only to ask whose they are."""

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        public_url: str,
        callback_url: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.public_url = public_url
        self.callback_url = callback_url
        self._clock = clock
        self._token = token
        self._seen: dict[str, tuple[float, Identity]] = {}
        # no proxy of the environment between us and our own hub
        self._client = httpx.AsyncClient(base_url=api_url, timeout=TIMEOUT, trust_env=False)

    @classmethod
    def of(cls, settings: Settings) -> Hub:
        return cls(
            settings.hub_api_url,
            settings.secret("service-token"),
            public_url=settings.public_url,
            callback_url=f"{settings.service_origin}{SERVICE_PATH}/oauth_callback",
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    # Who

    async def identify(self, token: str, session_id: str = "") -> Identity | None:
        """Whose token it is; None when nobody's. `session_id` changes at a logout, so a logout takes effect at once.

        Only good news is remembered: a refusal must not outlive its reason.
        """
        key = hashlib.sha256(f"{session_id}\0{token}".encode()).hexdigest()
        now = self._clock()
        if (found := self._seen.get(key)) is not None and now - found[0] < TOKEN_SECONDS:
            return found[1]
        identity = await self._whose(token)
        self._seen = {k: v for k, v in self._seen.items() if now - v[0] < TOKEN_SECONDS}
        if identity is not None:
            self._seen[key] = (now, identity)
        return identity

    async def _whose(self, token: str) -> Identity | None:
        try:
            answer = await self._send("GET", "/user", token=token)
        except UnicodeError:  # not even a header value
            return None
        if answer.status_code in (401, 403):
            return None
        model = self._read(answer)
        name, kind = str(model.get("name") or ""), str(model.get("kind") or "user")
        created = model.get("created")
        if kind == "user" and not created:
            person = await self.user(name)
            if person is None:
                return None
            created = person.created
        return Identity(
            name=name,
            kind=kind,
            admin=model.get("admin") is True,
            groups=tuple(model.get("groups") or ()),
            scopes=frozenset(model.get("scopes") or ()),
            token_id=str(model.get("token_id") or ""),
            created=created or "",
        )

    # Login

    def authorize_url(self, state: str, challenge: Challenge) -> str:
        """Where a browser goes to log in. On the hub's own origin: anywhere else people would type their password at the wrong place."""
        query = {
            "client_id": CLIENT_ID,
            "redirect_uri": self.callback_url,
            "response_type": "code",
            "state": state,
            "code_challenge": challenge.challenge,
            "code_challenge_method": "S256",
        }
        return f"{self.public_url}/hub/api/oauth2/authorize?{urlencode(query)}"

    @property
    def logout_url(self) -> str:
        """Ends the hub's session, and with it the tokens it gave to services for this browser."""
        return f"{self.public_url}/hub/logout"

    @property
    def token_page(self) -> str:
        return f"{self.public_url}/hub/token"

    async def token_for_code(self, code: str, verifier: str) -> str:
        form = {
            "client_id": CLIENT_ID,
            "client_secret": self._token,
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.callback_url,
            "code_verifier": verifier,
        }
        answer = await self._send("POST", "/oauth2/token", data=form)
        if 400 <= answer.status_code < 500:
            raise Unauthorized(
                "The hub did not accept this login; it may have taken too long. Log in again.", code="login_failed"
            )
        token = self._read(answer).get("access_token")
        if not token:
            raise HubUnavailable("The hub answered a login without a token.")
        return str(token)

    # People and groups

    async def users(self) -> list[User]:
        """Everybody, with all their servers, also those that are stopped."""
        found: list[User] = []
        while True:
            query = {"offset": len(found), "limit": PAGE, "include_stopped_servers": "1"}
            page = self._read(await self._send("GET", "/users", params=query))
            found += [_user(model) for model in page]
            if len(page) < PAGE:
                return found

    async def user(self, name: str) -> User | None:
        answer = await self._send("GET", f"/users/{_quote(name)}", params={"include_stopped_servers": "1"})
        return None if answer.status_code == 404 else _user(self._read(answer))

    async def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Each group with its members."""
        found: dict[str, tuple[str, ...]] = {}
        while True:
            page = self._read(await self._send("GET", "/groups", params={"offset": len(found), "limit": PAGE}))
            found |= {str(model["name"]): tuple(model.get("users") or ()) for model in page}
            if len(page) < PAGE:
                return found

    # Servers

    async def server(self, user: str, name: str = "") -> Server | None:
        """One server, None when there is none of that name. (The hub lists a default server only once it was started.)"""
        person = await self.user(user)
        return person.servers.get(name) if person else None

    async def make(
        self, user: str, name: str, *, display_name: str = "", user_options: Mapping[str, Any] | None = None
    ) -> None:
        """A named server that is not started; success when it is there already."""
        answer = await self._send("PUT", _server(user, name), json=_body(display_name, user_options))
        if answer.status_code != 409:
            self._read(answer)

    async def start(
        self, user: str, name: str = "", *, display_name: str = "", user_options: Mapping[str, Any] | None = None
    ) -> None:
        """Ask for a start; returns when it is on its way. Success when it runs or starts already.

        The hub's word about a failed start is not believed before its word about the server (it answers 500 for starts that go on).
        """
        answer = await self._send("POST", _server(user, name), json=_body(display_name, user_options), timeout=SLOW)
        if answer.is_success:
            return
        if answer.status_code == 400 or answer.status_code >= 500:
            server = await self.server(user, name)
            if server is not None and (server.ready or server.pending == "spawn"):
                return
            # by the time we look the stop may be over, and then only the sentence tells
            if answer.status_code == 400 and server and (server.pending or "is pending" in _message(answer)):
                raise HubUnavailable("The workspace is still being stopped. It starts when that is done.")
        if answer.status_code == 500 and (sentence := _message(answer)):
            raise Conflict(sentence, code="server_failed")
        self._read(answer)

    async def stop(self, user: str, name: str = "") -> None:
        """Ask for a stop; absent and stopped are success."""
        answer = await self._send("DELETE", _server(user, name), timeout=SLOW)
        if answer.status_code != 404:
            self._read(answer)

    async def delete(self, user: str, name: str) -> None:
        """Stop a named server and delete it for good; absent is success."""
        answer = await self._send("DELETE", _server(user, name), json={"remove": True}, timeout=SLOW)
        if answer.status_code != 404:
            self._read(answer)

    # The wire

    async def _send(self, method: str, path: str, *, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"token {token or self._token}", "Accept": "application/json"}
        try:
            return await self._client.request(method, path, headers=headers, **more)
        except httpx.HTTPError as error:
            raise HubUnavailable("JupyterHub does not answer at the moment. Try again in a few seconds.") from error

    def _read(self, answer: httpx.Response) -> Any:
        """The decoded body of a success; anything else as one of our errors."""
        if not answer.is_success:
            raise _refusal(answer)
        if not answer.content:
            return {}
        try:
            return answer.json()
        except ValueError as error:
            if answer.headers.get("Content-Type", "").startswith("text/plain"):
                return {}
            raise HubUnavailable(
                "JupyterHub gave an answer that nobody can read. Try again in a few seconds."
            ) from error


def _user(model: Mapping[str, Any]) -> User:
    servers = model.get("servers") or {}
    return User(
        name=str(model["name"]),
        admin=model.get("admin") is True,
        created=str(model.get("created") or ""),
        groups=tuple(model.get("groups") or ()),
        servers={str(name): _one(str(name), server) for name, server in servers.items()},
    )


def _one(name: str, model: Mapping[str, Any]) -> Server:
    return Server(
        name=name,
        display_name=str(model.get("display_name") or ""),
        ready=model.get("ready") is True,
        stopped=model.get("stopped", not model.get("ready")) is True,
        pending=str(model.get("pending") or ""),
        started=str(model.get("started") or ""),
        last_activity=str(model.get("last_activity") or ""),
        user_options=model.get("user_options") or {},
    )


def _body(display_name: str, user_options: Mapping[str, Any] | None) -> dict[str, Any]:
    # a body without this key would itself be taken for the options
    body: dict[str, Any] = {"user_options": dict(user_options) if user_options is not None else None}
    return body | ({"display_name": display_name} if display_name else {})


def _server(user: str, name: str) -> str:
    return f"/users/{_quote(user)}/servers/{_quote(name)}" if name else f"/users/{_quote(user)}/server"


def _quote(name: str) -> str:
    return quote(name, safe="")


def _refusal(answer: httpx.Response) -> HimaliaError:
    status, message = answer.status_code, _message(answer)
    if status == 404:
        return NotFound(message or "JupyterHub does not know this.", code="hub_not_found")
    if status in (401, 403):
        return HubUnavailable(
            "JupyterHub does not accept the control plane's token. `himalia down && himalia up` gives both the same.",
            code="hub_refused",
        )
    if status < 500:
        return Conflict(message or "JupyterHub refused.", code="hub_refused")
    return HubUnavailable(f"JupyterHub has an error of its own ({message or status}). Try again; its log says more.")


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("message") or "")[:1000]
    except (ValueError, AttributeError):
        return ""
