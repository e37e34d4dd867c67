"""The loop that runs every noun's reconciler: woken by commits and by the engine's hints, with a timer as the safety net."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import structlog
from sqlalchemy import func, select, update

from himalia_services.engines import Engine
from himalia_services.errors import EngineError
from himalia_services.model.workload import Observed, WorkloadId, WorkspaceRef
from himalia_services.reconcile import due, job, version, workspace
from himalia_services.store import tables as t
from himalia_services.store.db import Database

if TYPE_CHECKING:
    from himalia_services.parts import Parts

log = structlog.get_logger(__name__)

RESYNC_SECONDS = 5.0
#: Passes of one noun at the same time: a save takes minutes and must not keep the next one waiting.
PASSES = 8
#: A stream that says nothing for so long may have died without a word.
STALE_SECONDS = 60.0
WATCH_PAUSE_SECONDS = (0.2, 10.0)
#: Whoever asks for a listing within this time shares it.
GATHER_SECONDS = 0.005
TOUCH_TRIES = 6

Step = Callable[["Parts", str], Awaitable[None]]


@dataclass(frozen=True)
class Noun:
    """A table and the pass over its due rows."""

    name: str
    table: Any
    step: Step


NOUNS = (
    Noun("job", t.Job, job.step),
    Noun("version", t.Version, version.step),
    Noun("workspace", t.Workspace, workspace.step),
)


async def run(parts: Parts, nouns: Sequence[Noun] = NOUNS) -> None:
    """Keep all nouns true until cancelled."""
    await due.free(parts.db, [noun.table for noun in nouns])
    shared = replace(parts, engine=cast(Engine, OneListing(parts.engine)))
    async with asyncio.TaskGroup() as group:
        for noun in nouns:
            group.create_task(_passes(shared, noun), name=f"reconcile {noun.name}")
        group.create_task(_watch(shared, group), name="watch the engine")


class OneListing:
    """An engine that is listed once for all who ask at the same time; every other verb goes straight through.

    A listing begins after the question, so nobody is told what was true before their own last act.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next: asyncio.Future[Mapping[WorkloadId, Observed]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def observe(self) -> Mapping[WorkloadId, Observed]:
        if self._next is None:
            self._next = asyncio.ensure_future(self._list())
        return await asyncio.shield(self._next)

    async def _list(self) -> Mapping[WorkloadId, Observed]:
        await asyncio.sleep(GATHER_SECONDS)
        self._next = None  # who asks from here on may have changed something since
        return await self._engine.observe()


# Passes


async def _passes(parts: Parts, noun: Noun) -> None:
    """Pass after pass of one noun. Leases keep passes that overlap apart."""
    woken = asyncio.Event()
    off = parts.db.on_commit(woken.set)
    running: set[asyncio.Task[None]] = set()
    skipped = False

    def ended(task: asyncio.Task[None]) -> None:
        nonlocal skipped
        running.discard(task)
        if skipped:
            skipped = False
            woken.set()

    try:
        async with asyncio.TaskGroup() as group:
            while True:
                woken.clear()
                if len(running) < PASSES:
                    task = group.create_task(_pass(parts, noun))
                    running.add(task)
                    task.add_done_callback(ended)
                else:
                    skipped = True
                await _wait(woken, await _pause(parts.db, noun))
    finally:
        off()


async def _pass(parts: Parts, noun: Noun) -> None:
    try:
        await noun.step(parts, f"{noun.name}-{uuid4().hex[:12]}")
    except Exception:
        log.exception("pass_failed", noun=noun.name)


async def _pause(db: Database, noun: Noun) -> float:
    """Seconds until the next row is due, at most those of the timer."""
    moment = t.now()
    try:
        async with db.read() as session:
            due = await session.scalar(select(func.min(noun.table.wake_at)).where(noun.table.wake_at > moment))
    except Exception:
        log.exception("pass_failed", noun=noun.name)
        return RESYNC_SECONDS
    if due is None:
        return RESYNC_SECONDS
    return min(max((due - moment).total_seconds(), 0.01), RESYNC_SECONDS)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


# Hints


async def _watch(parts: Parts, group: asyncio.TaskGroup) -> None:
    """Turn the engine's hints into rows that are due now. A watch that ends or falls silent is begun anew."""
    shortest, longest = WATCH_PAUSE_SECONDS
    pause = shortest
    while True:
        try:
            async for what in _until_stale(parts.engine.watch()):
                pause = shortest
                if (row := row_of(what)) is not None:
                    group.create_task(_touch(parts.db, *row))
        except EngineError as error:
            log.warning("watch_ended", error=error.detail, again_in=pause)
        except Exception:
            log.exception("watch_failed", again_in=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest)


async def _until_stale(hints: AsyncIterator[WorkloadId | WorkspaceRef]) -> AsyncIterator[WorkloadId | WorkspaceRef]:
    while True:
        try:
            async with asyncio.timeout(STALE_SECONDS):
                hint = await anext(hints)
        except (StopAsyncIteration, TimeoutError):
            return
        yield hint


def row_of(what: WorkloadId | WorkspaceRef) -> tuple[Any, str] | None:
    """The table and id of the row a hint is about: ids of workloads derive from ids of rows."""
    if isinstance(what, WorkspaceRef):
        return t.Workspace, what.id
    kind, _, rest = what.partition("-")
    if kind == "job":
        return t.Job, f"job-{rest.partition('-')[0]}"
    if kind == "boot":
        return t.Version, f"ver-{rest}"
    return None


async def _touch(db: Database, table: Any, id: str) -> None:
    """Make a row due now. While somebody holds it, its release would say later; so wait until it is free."""
    pause = 0.05
    for _ in range(TOUCH_TRIES):
        try:
            async with db.read() as session:
                row = (await session.execute(select(table.lease, table.wake_at).where(table.id == id))).one_or_none()
            if row is None or (row.lease is None and row.wake_at <= t.now()):
                return
            if row.lease is None:
                async with db.write() as session:
                    await session.execute(
                        update(table).where(table.id == id, table.lease.is_(None)).values(wake_at=t.now())
                    )
                return
        except Exception:
            log.exception("hint_lost", row=id)
            return
        await asyncio.sleep(pause)
        pause *= 2
