"""The feed of events: one's own, in order, resumed without loss, ended cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from himalia.schema import Event, from_wire
from himalia_services.api import sse
from himalia_services.parts import Parts
from himalia_services.store import tables as t
from service.assertions import assert_problem
from service.conftest import ClientFor, Clock
from service.fakehub import ENTER, FakeHub

SECONDS = 10


async def happen(parts: Parts, name: str, target: str, kind: str = "job", status: str = "Running") -> int:
    """Something of somebody's; the event's id."""
    async with parts.db.write() as session:
        person = await session.scalar(select(t.Person).where(t.Person.name == name))
        assert person is not None
        event = t.Event(actor=name, target_kind=kind, target=target, owner_id=person.id, owner=name, status=status)
        session.add(event)
        await session.flush()
        return event.id


class Stream:
    """Blocks of an event stream, read with a deadline."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def block(self) -> dict[str, str]:
        found: dict[str, str] = {}
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                if not line:
                    return found
                field, _, value = line.partition(":")
                found[field] = value.removeprefix(" ")
        raise EOFError

    async def event(self) -> Event:
        while "data" not in (block := await self.block()):
            pass
        event = from_wire(Event, json.loads(block["data"]))
        assert block["id"] == str(event.id)
        return event

    async def end(self) -> None:
        """Read until there is no more; the deadline of a block fails the test."""
        with contextlib.suppress(EOFError):
            while True:
                await self.block()


@contextlib.asynccontextmanager
async def listening(client: httpx.AsyncClient, *, after: int | None = None, **query: str) -> AsyncIterator[Stream]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with client.stream("GET", "/events", headers=headers, params=query) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(answer.aiter_lines())


async def test_what_happens_arrives_as_it_happens(live_for: ClientFor, parts: Parts) -> None:
    ada = live_for("ada")
    async with listening(ada) as stream:
        await stream.block()  # the mark: the stream is there
        for target in ("job-1", "job-2"):
            await happen(parts, "ada", target)
            event = await stream.event()
            assert (event.target, event.status, event.owner) == (target, "Running", "ada")


async def test_a_client_resumes_after_the_last_event_it_saw(live_for: ClientFor, parts: Parts) -> None:
    ada = live_for("ada")
    await ada.get("/me")
    ids = [await happen(parts, "ada", f"job-{i}") for i in range(5)]
    async with listening(ada, after=ids[1]) as stream:
        assert [(await stream.event()).id for _ in range(3)] == ids[2:]


async def test_a_client_that_saw_none_yet_resumes_where_it_came_in(live_for: ClientFor, parts: Parts) -> None:
    ada = live_for("ada")
    await ada.get("/me")
    await happen(parts, "ada", "before")
    async with listening(ada) as stream:
        mark = int((await stream.block())["id"])
    await happen(parts, "ada", "between")
    async with listening(ada, after=mark) as stream:
        assert (await stream.event()).target == "between"


async def test_more_events_than_one_batch_arrive_all_and_in_order(live_for: ClientFor, parts: Parts) -> None:
    ada = live_for("ada")
    await ada.get("/me")
    async with parts.db.write() as session:
        person = await session.scalar(select(t.Person))
        assert person is not None
        session.add_all(
            t.Event(actor="ada", target_kind="job", target=str(i), owner_id=person.id, owner="ada") for i in range(450)
        )
    async with listening(ada, after=0) as stream:
        assert [(await stream.event()).target for _ in range(450)] == [str(i) for i in range(450)]


async def test_other_people_s_events_are_not_shown(live_for: ClientFor, parts: Parts) -> None:
    ada, ben = live_for("ada"), live_for("ben")
    for client in (ada, ben):
        await client.get("/me")
    await happen(parts, "ben", "ben's")
    await happen(parts, "ada", "ada's")
    async with listening(ada, after=0) as stream:
        assert (await stream.event()).target == "ada's"
    assert_problem(await ada.get("/events", params={"all": "true"}), 403, "forbidden")


async def test_an_admin_may_see_everybody_s(live_for: ClientFor, parts: Parts) -> None:
    ada, root = live_for("ada"), live_for("root", admin=True, scopes=[ENTER, "custom:himalia:admin", "admin:users"])
    await ada.get("/me")
    await happen(parts, "ada", "ada's")
    async with listening(root, after=0, all="true") as stream:
        assert (await stream.event()).target == "ada's"


async def test_a_token_sees_the_nouns_it_may_read(live_for: ClientFor, parts: Parts) -> None:
    reader = live_for("ada", scopes=[ENTER, "custom:himalia:environments:read!user"])
    await reader.get("/me")
    await happen(parts, "ada", "job-1")
    await happen(parts, "ada", "ver-1", kind="version")
    async with listening(reader, after=0) as stream:
        assert (await stream.event()).target == "ver-1"


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 19])
async def test_an_id_that_is_none_is_invalid(client_for: ClientFor, last: str) -> None:
    assert_problem(await client_for("ada").get("/events", headers={"Last-Event-ID": last}), 422, "last_event_id")


async def test_a_stream_ends_when_the_platform_does(live_for: ClientFor, app: FastAPI) -> None:
    async with listening(live_for("ada")) as stream:
        await stream.block()
        app.state.closing.set()
        await stream.end()


async def test_a_silent_stream_says_that_it_lives(live_for: ClientFor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "COMMENT_SECONDS", 0.05)
    async with listening(live_for("ada")) as stream:
        await stream.block()
        for _ in range(3):
            assert await stream.block() == {"": ""}


async def test_a_stream_ends_when_its_token_is_revoked(
    live_for: ClientFor, hub: FakeHub, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "COMMENT_SECONDS", 0.05)
    async with listening(live_for("ada")) as stream:
        await stream.block()
        hub.tokens.clear()
        clock.advance(60)
        await stream.end()


async def test_a_hub_that_is_away_ends_no_stream(
    live_for: ClientFor, hub: FakeHub, clock: Clock, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "COMMENT_SECONDS", 0.05)
    ada = live_for("ada")
    async with listening(ada) as stream:
        await stream.block()
        await hub.stop()
        clock.advance(60)
        for _ in range(3):
            await stream.block()
        await happen(parts, "ada", "job-1")
        assert (await stream.event()).target == "job-1"


async def test_a_stream_that_is_left_leaves_nothing_behind(live_for: ClientFor, parts: Parts) -> None:
    ada = live_for("ada")
    async with listening(ada) as stream:
        await stream.block()
        assert len(parts.db._listeners) == 1
    async with asyncio.timeout(SECONDS):
        while parts.db._listeners:
            await happen(parts, "ada", "job-1")
            await asyncio.sleep(0.01)
