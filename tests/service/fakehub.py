"""A hub in memory with a real port: it answers what the control plane asks, does what its script says, and remembers every call."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from himalia import scopes

SERVICE_TOKEN = "service-token-of-the-tests"
ENTER = "access:services!service=himalia"


def expanded(name: str, wanted: Iterable[str]) -> list[str]:
    """What the hub makes of a token's scopes: everything they contain, each filtered as it was given (`!user` is this person)."""
    found: set[str] = set()
    for scope in wanted:
        bare, mark, owner = scope.partition("!")
        filter = f"!user={name}" if mark and owner == "user" else mark + owner
        todo = [bare]
        while todo:
            one = todo.pop()
            found.add(one + filter)
            todo += scopes.SCOPES.get(one, {}).get("subscopes", [])
    return sorted(found)


@dataclass
class FakeServer:
    name: str
    display_name: str = ""
    ready: bool = False
    pending: str | None = None
    user_options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "display_name": self.display_name or self.name,
            "ready": self.ready,
            "stopped": not self.ready and not self.pending,
            "pending": self.pending,
            "started": "2026-11-01T08:00:00.000000Z" if self.ready else None,
            "last_activity": None,
            "user_options": self.user_options,
        }


@dataclass
class FakePerson:
    name: str
    admin: bool = False
    groups: list[str] = field(default_factory=list)
    created: str = "2026-11-01T07:00:00.000000Z"
    servers: dict[str, FakeServer] = field(default_factory=dict)

    def model(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "user",
            "admin": self.admin,
            "groups": self.groups,
            "created": self.created,
            "servers": {name: server.model() for name, server in self.servers.items()},
        }


@dataclass
class FakeToken:
    name: str
    scopes: list[str]
    id: str
    kind: str = "user"


class FakeHub:
    """`people` and `tokens` are its database. `refuse` puts an answer in the way of the next call of a kind; `calls` is what was asked."""

    def __init__(self) -> None:
        self.people: dict[str, FakePerson] = {}
        self.tokens: dict[str, FakeToken] = {}
        self.codes: dict[str, tuple[str, str]] = {}  # code: (token, challenge)
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.slow_start = False  # a start stays pending until the test ends it
        self._refusals: deque[tuple[str, str, int, str, bool]] = deque()
        self._runner: web.AppRunner | None = None
        self.url = ""

    # The script

    def person(self, name: str, *, admin: bool = False, groups: Iterable[str] = ()) -> FakePerson:
        person = self.people.setdefault(name, FakePerson(name))
        person.admin, person.groups = person.admin or admin, sorted({*person.groups, *groups})
        return person

    def token(self, name: str, wanted: Iterable[str] | None = None) -> str:
        """A token of a person; without `wanted` one with everything a person has, for an admin also of the hub's own scopes."""
        person = self.person(name)
        if wanted is None:
            wanted = [ENTER, *(f"{scope}!user" for scope in scopes.PERSON), *(["admin:users"] if person.admin else [])]
        token = f"token-of-{name}-{secrets.token_hex(8)}"
        self.tokens[token] = FakeToken(name, expanded(name, wanted), f"t{len(self.tokens) + 1}")
        return token

    def service(self, name: str) -> str:
        token = f"service-of-{name}-{secrets.token_hex(8)}"
        self.tokens[token] = FakeToken(name, [ENTER], f"t{len(self.tokens) + 1}", kind="service")
        return token

    def refuse(self, method: str, path: str, status: int, message: str = "", *, then_do: bool = False) -> None:
        """Answer the next `method` on a path that ends with `path` by `status`; with `then_do` what was asked happens all the same."""
        self._refusals.append((method, path, status, message, then_do))

    # Its life

    async def start(self, port: int = 0) -> None:
        app = web.Application(middlewares=[self._listen])
        app.router.add_get("/hub/api/user", self._whose)
        app.router.add_post("/hub/api/oauth2/token", self._exchange)
        app.router.add_get("/hub/api/users", self._users)
        app.router.add_get("/hub/api/users/{name}", self._user)
        app.router.add_get("/hub/api/groups", self._groups)
        for path in ("/hub/api/users/{name}/server", "/hub/api/users/{name}/servers/{server}"):
            app.router.add_put(path, self._put)
            app.router.add_post(path, self._start)
            app.router.add_delete(path, self._stop)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # Its answers

    @web.middleware
    async def _listen(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append((request.method, request.path.removeprefix("/hub/api")))
        self.bodies.append(
            await request.json() if request.content_type == "application/json" and request.can_read_body else None
        )
        if request.path not in ("/hub/api/user", "/hub/api/oauth2/token") and self._bearer(request) != SERVICE_TOKEN:
            return _error(403, "not the service's token")
        for refusal in list(self._refusals):
            method, path, status, message, then_do = refusal
            if request.method == method and request.path.endswith(path):
                self._refusals.remove(refusal)
                if then_do:
                    await handler(request)
                return _error(status, message)
        return await handler(request)

    @staticmethod
    def _bearer(request: web.Request) -> str:
        return request.headers.get("Authorization", "").partition(" ")[2]

    async def _whose(self, request: web.Request) -> web.Response:
        token = self.tokens.get(self._bearer(request))
        if token is None:
            return _error(403, "Missing or invalid credentials.")
        model: dict[str, Any] = {
            "name": token.name,
            "kind": token.kind,
            "scopes": token.scopes,
            "token_id": token.id,
            "session_id": None,
        }
        if token.kind == "user":
            person = self.people[token.name]
            model |= {"admin": person.admin, "groups": person.groups}
        return web.json_response(model)

    async def _exchange(self, request: web.Request) -> web.Response:
        form = await request.post()
        token, challenge = self.codes.pop(str(form.get("code")), ("", ""))
        digest = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        right = challenge == base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if not token or not right or form.get("client_secret") != SERVICE_TOKEN:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"access_token": token, "token_type": "Bearer"})

    async def _users(self, request: web.Request) -> web.Response:
        offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", 50))
        found = [self.people[name].model() for name in sorted(self.people)]
        return web.json_response(found[offset : offset + limit])

    async def _user(self, request: web.Request) -> web.Response:
        person = self.people.get(request.match_info["name"])
        return web.json_response(person.model()) if person else _error(404, "no such user")

    async def _groups(self, request: web.Request) -> web.Response:
        offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", 50))
        names = sorted({group for person in self.people.values() for group in person.groups})
        members = {name: [p.name for p in self.people.values() if name in p.groups] for name in names}
        return web.json_response([{"name": name, "users": members[name]} for name in names[offset : offset + limit]])

    async def _put(self, request: web.Request) -> web.Response:
        person, name = self.people.get(request.match_info["name"]), request.match_info.get("server", "")
        if person is None:
            return _error(404, "no such user")
        if not name or name in person.servers:
            return _error(409, "exists")
        person.servers[name] = self._made(name, self.bodies[-1])
        return web.json_response(person.servers[name].model(), status=201)

    async def _start(self, request: web.Request) -> web.Response:
        person, name = self.people.get(request.match_info["name"]), request.match_info.get("server", "")
        if person is None:
            return _error(404, "no such user")
        body = self.bodies[-1] or {}
        server = person.servers.setdefault(name, self._made(name, body))
        if server.ready:
            return _error(400, f"{name} is already running")
        if server.pending == "stop":
            return _error(400, f"{person.name}:{name} is pending stop")
        server.user_options = body.get("user_options") or server.user_options
        server.pending, server.ready = ("spawn", False) if self.slow_start else (None, True)
        return web.Response(status=202 if self.slow_start else 201, content_type="text/plain")

    @staticmethod
    def _made(name: str, body: Any) -> FakeServer:
        return FakeServer(
            name, (body or {}).get("display_name") or name, user_options=(body or {}).get("user_options") or {}
        )

    async def _stop(self, request: web.Request) -> web.Response:
        person, name = self.people.get(request.match_info["name"]), request.match_info.get("server", "")
        if person is None or (name and name not in person.servers):
            return _error(404, "no such server")
        if (self.bodies[-1] or {}).get("remove"):
            if not name:
                return _error(400, "Cannot delete the default server")
            del person.servers[name]
        elif name in person.servers:
            person.servers[name].ready, person.servers[name].pending = False, None
        return web.Response(status=204)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"status": status, "message": message}, status=status)
