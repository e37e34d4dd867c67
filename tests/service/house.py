"""A control plane at work: what people ask, what the hub tells, what the image builder leaves, and the reconcilers pass by pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
from sqlalchemy import select, update

from himalia_services.app import API, create_app, create_internal_app
from himalia_services.control import preset
from himalia_services.engines.fake import Ends, FakeEngine
from himalia_services.parts import Parts
from himalia_services.reconcile import version, workspace
from himalia_services.snapshot.registry import Registry
from himalia_services.store import tables as t
from himalia_services.store.db import Database
from service.fakehub import FakeHub, FakeServer

PACKAGES = {"dpkg": [["tree", "2.1"]], "pip": [["numpy", "2.3.0"]]}
BOOTS = {"ok": True, "reason": "", "message": "", "warnings": [], "packages": PACKAGES, "log_tail": ""}
NO_BOOT = {
    "ok": False,
    "reason": "boot_check",
    "message": "The server did not answer.",
    "warnings": [],
    "packages": {},
    "log_tail": "ImportError",
}

Json = dict[str, Any]


class ScriptedRegistry:
    """Remembers what was taken out. `fails` is raised by the next deletion."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, str]] = []
        self.fails: Exception | None = None

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        self.deleted.append((repository, digest))
        return True

    async def aclose(self) -> None:
        return


class House:
    """The control plane of one test. `ask` speaks to the API, `tell` to the internal one; `turn` runs the reconcilers once."""

    def __init__(self, parts: Parts, hub: FakeHub) -> None:
        self.hub = hub
        self.engine = cast(FakeEngine, parts.engine)
        self.engine.scripts["boot-check"] = Ends(result=BOOTS)
        self.registry = ScriptedRegistry()
        self._run(replace(parts, registry=cast(Registry, self.registry)))
        self._databases: list[Database] = []
        self._tokens: dict[str, str] = {}

    def _run(self, parts: Parts) -> None:
        self.parts = parts
        self._api = httpx.ASGITransport(create_app(parts))
        self._internal = httpx.ASGITransport(create_internal_app(parts))

    async def open(self) -> None:
        """Ada and Ben are in the group vision, Eve in none, Root is an admin; the base image is built."""
        self.hub.person("ada", groups=["vision"])
        self.hub.person("ben", groups=["vision"])
        self.hub.person("eve")
        self.hub.person("root", admin=True)
        await self.build()

    async def close(self) -> None:
        for db in self._databases:
            await db.aclose()

    async def restart(self) -> None:
        """Another process on the same database, with hub, engine and registry as they are: what `kill -9` leaves."""
        db = Database(self.parts.settings.database)
        self._databases.append(db)
        self._run(replace(self.parts, db=db))

    # What people ask and the hub tells

    def token(self, who: str) -> str:
        if who not in self._tokens:
            made = self.hub.token(who)
            # names may have letters that a header has not
            self._tokens[who] = made.encode("ascii", "backslashreplace").decode()
            self.hub.tokens[self._tokens[who]] = self.hub.tokens.pop(made)
        return self._tokens[who]

    def forget(self, who: str) -> None:
        """The person's tokens are revoked; the next request makes a new one, and sees the hub as it is now."""
        for token in [token for token, held in self.hub.tokens.items() if held.name == who]:
            del self.hub.tokens[token]
        self._tokens.pop(who, None)

    async def send(
        self,
        who: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=self._api, base_url=f"{self.parts.settings.service_origin}{API}"
        ) as client:
            sent = {"Authorization": f"Bearer {self.token(who)}", **(headers or {})}
            return await client.request(method, path, json=body, params=query, headers=sent)

    async def ask(
        self, who: str, method: str, path: str, body: Any = None, *, expect: int | None = None, **more: Any
    ) -> Any:
        """One request of a person; the decoded answer. `expect` is the status it must have, without it any success."""
        return _decoded(await self.send(who, method, path, body, **more), expect)

    async def tell(
        self, path: str, body: Any = None, *, method: str = "POST", expect: int | None = None, **query: Any
    ) -> Any:
        """One request of the hub to the internal API."""
        secret = self.parts.settings.secret("internal-token")
        async with httpx.AsyncClient(transport=self._internal, base_url="http://control") as client:
            headers = {"Authorization": f"Bearer {secret}"}
            return _decoded(
                await client.request(method, f"/internal/{path}", json=body, params=query, headers=headers), expect
            )

    async def plan(
        self, user: str, server: str = "", *, container: bool = True, expect: int | None = None, **options: str
    ) -> Json:
        """What the hub asks when a server starts."""
        person = self.hub.people[user]
        body = {
            "user": user,
            "user_created": person.created,
            "admin": person.admin,
            "groups": person.groups,
            "server": server,
            "display_name": server,
            "user_options": options,
            "container": container,
        }
        return await self.tell("launch-plan", body, expect=expect)

    async def phase(self, workspace_id: str, status: str, code: str = "", message: str = "") -> None:
        body = {"workspace_id": workspace_id, "status": status, "reason_code": code, "reason_message": message}
        await self.tell("phase", body, expect=204)

    async def started(self, user: str, server: str = "", **options: str) -> Json:
        """A workspace that was started for the first time and runs."""
        plan = await self.plan(user, server, container=False, **options)
        self.serve(user, server)
        await self.phase(plan["workspace_id"], "Starting")
        await self.phase(plan["workspace_id"], "Running")
        return plan

    async def workspace(self, who: str, id: str) -> Json:
        return await self.ask(who, "GET", f"/workspaces/{id}")

    async def save(self, who: str, workspace_id: str, name: str, **more: str) -> Json:
        """A save, to its end."""
        begun = await self.ask(
            who, "POST", f"/workspaces/{workspace_id}/environments", {"name": name, **more}, expect=202
        )
        return await self.settled(begun["id"])

    async def settled(self, version_id: str) -> Json:
        """A version when its save is over, as the hub's side sees it."""
        return await self.until(
            lambda: self.tell(f"versions/{version_id}", method="GET"), lambda v: v["phase"] in ("Saved", "Failed")
        )

    # What happens around it

    def serve(self, user: str, server: str = "", *, ready: bool = True, pending: str | None = None) -> None:
        """What the hub says of a server from now on."""
        self.hub.person(user).servers[server] = FakeServer(server, ready=ready, pending=pending)

    def asked_of_hub(self, method: str) -> list[str]:
        return [path for verb, path in self.hub.calls if verb == method]

    async def build(self, mark: str = "a") -> None:
        """The image builder leaves a base image."""
        entry = {"repository": "himalia/base", "digest": f"sha256:{mark * 64}", "config_digest": f"sha256:{mark * 63}0"}
        self.parts.settings.built.write_text(json.dumps({"base": entry}))
        await preset.refresh(self.parts.db, self.parts.settings, self.parts.catalog)

    async def turn(self, *nouns: Any) -> None:
        """One pass over every row, as if all timers had run out."""
        async with self.parts.db.write() as session:
            for table in (t.Version, t.Workspace):
                await session.execute(update(table).values(wake_at=t.now()))
        for noun in nouns or (version, workspace):
            await noun.step(self.parts, "test")

    async def until(self, look: Callable[[], Awaitable[Any]], done: Callable[[Any], bool], turns: int = 8) -> Any:
        """Turn until it is so."""
        seen = None
        for _ in range(turns):
            await self.turn()
            seen = await look()
            if done(seen):
                return seen
        raise AssertionError(f"still after {turns} turns: {seen}")

    async def rows(self, table: Any, *where: Any) -> Sequence[Any]:
        async with self.parts.db.read() as session:
            return (await session.scalars(select(table).where(*where))).all()


def _decoded(answer: httpx.Response, expect: int | None) -> Any:
    assert answer.status_code == expect if expect else answer.is_success, answer.text
    return answer.json() if answer.content else None


async def eventually(look: Callable[[], Awaitable[Any]], done: Callable[[Any], bool], *, within: float = 15.0) -> Any:
    """Look again and again until it is so, for tests in which the real loop runs."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        seen = await look()
        if done(seen):
            return seen
        assert asyncio.get_running_loop().time() < deadline, f"still after {within} s: {seen}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    house = House(parts, hub)
    await house.open()
    try:
        yield house
    finally:
        await house.close()
