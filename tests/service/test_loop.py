"""The loop that runs the reconcilers: what wakes it, what it survives, how it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from himalia_services.engines.fake import FakeEngine, Runs
from himalia_services.errors import EngineUnavailable
from himalia_services.model.workload import Observed, WorkloadId, WorkspaceRef
from himalia_services.parts import Parts
from himalia_services.reconcile import due, loop
from himalia_services.store import lease
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import House, eventually, opened


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    async with opened(parts, hub) as house:
        yield house


@pytest.fixture
async def running(house: House) -> AsyncIterator[House]:
    """The real loop, with its timers so long that only waking it makes anything happen."""
    task = asyncio.create_task(loop.run(house.parts))
    yield house
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def waiting(house: House) -> t.Workspace:
    """A workspace's row that is not due for an hour."""
    plan = await house.started("ada")
    async with house.parts.db.write() as session:
        later = t.now() + timedelta(hours=1)
        await session.execute(update(t.Workspace).values(wake_at=later))
    return (await house.rows(t.Workspace, t.Workspace.id == plan["workspace_id"]))[0]


# What wakes it


async def test_a_save_runs_to_its_end_by_commits_and_hints_alone(
    running: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RESYNC_SECONDS", 3600.0)
    plan = await running.started("ada")
    begun = await running.ask("ada", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "vision"})
    saved = await eventually(
        lambda: running.tell(f"versions/{begun['id']}", method="GET"), lambda v: v["phase"] == "Saved"
    )
    assert [h["status"] for h in saved["status_history"]] == ["Committing", "Pushing", "Verifying", "Saved"]


async def test_a_workspace_starts_stops_and_goes_under_the_loop(running: House) -> None:
    made = await running.ask("ada", "POST", "/workspaces", {"name": "box"})
    path = f"/workspaces/{made['id']}"
    await eventually(lambda: running.rows(t.Workspace), lambda rows: rows[0].wanted == "")
    await running.phase(made["id"], "Running")
    await running.ask("ada", "POST", f"{path}/stop")
    await eventually(lambda: running.rows(t.Workspace), lambda rows: rows[0].wanted == "")
    await running.phase(made["id"], "Stopped")
    await running.ask("ada", "DELETE", path)
    await eventually(lambda: running.send("ada", "GET", path), lambda answer: answer.status_code == 404)


async def test_an_idle_loop_writes_nothing(running: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RESYNC_SECONDS", 0.01)
    await waiting(running)
    passes = 0
    seen: list[int] = []
    off = running.parts.db.on_commit(lambda: seen.append(passes))
    step = loop.version.step

    async def counted(parts: Parts, holder: str) -> None:
        nonlocal passes
        passes += 1
        await step(parts, holder)

    task = asyncio.create_task(loop.run(running.parts, [loop.Noun("version", t.Version, counted)]))
    await eventually(lambda: _value(passes), lambda n: n > 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    off()
    # one commit frees the leases at its start, and the house's own loop may just have had its last word; a loop that wrote in each
    # pass would have committed twenty times
    assert len(seen) <= 3


async def _value(value: int) -> int:
    return value


def test_a_hint_is_about_a_row() -> None:
    assert loop.row_of(WorkloadId("job-0123456789ab-a2")) == (t.Job, "job-0123456789ab")
    assert loop.row_of(WorkloadId("boot-0123456789ab")) == (t.Version, "ver-0123456789ab")
    assert loop.row_of(WorkspaceRef(id="ws-0123456789ab", container="c")) == (t.Workspace, "ws-0123456789ab")
    assert loop.row_of(WorkloadId("other-1")) is None


async def test_a_hint_makes_its_row_due_now(running: House) -> None:
    row = await waiting(running)
    asked = len(running.asked_of_hub("GET"))
    await watched(running)
    running.engine.hint(WorkspaceRef(id=row.id, container="c"))
    await eventually(lambda: _value(len(running.asked_of_hub("GET"))), lambda n: n > asked)


async def watched(house: House) -> None:
    await eventually(lambda: _value(len(house.engine._watchers)), lambda n: n > 0)


async def test_a_hint_about_a_row_that_is_held_is_not_lost(running: House) -> None:
    row = await waiting(running)
    await hold(running, row.id, "somebody")
    await watched(running)
    running.engine.hint(WorkspaceRef(id=row.id, container="c"))
    async with running.parts.db.write() as session:
        held = await lease.held(session, t.Workspace, row.id, "somebody")
        assert held is not None
        lease.release(held, again_in=timedelta(hours=1))
    due_now = await eventually(
        lambda: running.rows(t.Workspace, t.Workspace.id == row.id),
        lambda rows: rows[0].wake_at < t.now() + timedelta(minutes=30),
    )
    assert due_now


async def hold(house: House, id: str, holder: str) -> None:
    async with house.parts.db.write() as session:
        row = await session.get_one(t.Workspace, id)
        row.lease, row.leased_until = holder, t.now() + timedelta(minutes=5)


async def test_a_watch_that_ends_is_begun_anew(running: House) -> None:
    await watched(running)
    running.engine.break_watch()
    await eventually(lambda: _value(running.engine.calls.count(("watch", ""))), lambda n: n >= 2)
    await watched(running)


async def test_a_watch_that_falls_silent_is_begun_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STALE_SECONDS", 0.05)
    task = asyncio.create_task(loop.run(house.parts))
    await eventually(lambda: _value(house.engine.calls.count(("watch", ""))), lambda n: n >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_watch_that_cannot_begin_is_tried_again(house: House) -> None:
    house.engine.fail("watch", EngineUnavailable("The engine does not answer."), times=2)
    task = asyncio.create_task(loop.run(house.parts))
    await watched(house)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# What it survives


async def test_a_pass_that_breaks_is_not_the_last(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RESYNC_SECONDS", 0.01)
    passes = 0

    async def breaks(parts: Parts, holder: str) -> None:
        nonlocal passes
        passes += 1
        raise RuntimeError("a bug")

    task = asyncio.create_task(loop.run(house.parts, [loop.Noun("version", t.Version, breaks)]))
    await eventually(lambda: _value(passes), lambda n: n > 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_long_pass_keeps_no_other_row_waiting(running: House) -> None:
    running.engine.may_save.clear()
    first, second = await running.started("ada"), await running.started("ben")
    await running.ask("ada", "POST", f"/workspaces/{first['workspace_id']}/environments", {"name": "one"})
    await running.engine.saving.wait()
    await running.ask("ben", "POST", f"/workspaces/{second['workspace_id']}/environments", {"name": "two"})
    await eventually(lambda: _value(len(running.engine.saves)), lambda n: n == 2)
    running.engine.may_save.set()
    await eventually(
        lambda: running.rows(t.Version, t.Version.workspace_id.is_not(None)),
        lambda rows: {v.status for v in rows} == {"Saved"},
    )


async def test_one_row_that_breaks_disturbs_no_other_and_comes_again_later(house: House) -> None:
    ids = [(await house.started(who))["workspace_id"] for who in ("ada", "ben")]
    await house.turn()
    async with house.parts.db.write() as session:
        await session.execute(update(t.Workspace).values(wake_at=t.now()))
    acted: list[str] = []

    async def act(id: str) -> None:
        if id == ids[0]:
            raise RuntimeError("a bug")
        acted.append(id)

    await due.each(house.parts.db, t.Workspace, t.Workspace.id.in_(ids), "me", act)
    rows = {row.id: row for row in await house.rows(t.Workspace)}
    assert acted == [ids[1]]
    assert rows[ids[0]].lease is None
    assert rows[ids[0]].tries == 1
    assert rows[ids[0]].wake_at > t.now() - timedelta(seconds=1)


async def test_the_pause_after_no_answer_grows_and_is_bounded(house: House) -> None:
    id = (await house.started("ada"))["workspace_id"]
    pauses: list[float] = []

    async def act(_: str) -> None:
        raise EngineUnavailable("The engine does not answer.")

    for _ in range(8):
        async with house.parts.db.write() as session:
            await session.execute(update(t.Workspace).values(wake_at=t.now()))
        before = t.now()
        await due.each(house.parts.db, t.Workspace, t.Workspace.id == id, "me", act)
        pauses.append(((await house.rows(t.Workspace))[0].wake_at - before).total_seconds())
    assert all(pause >= least for pause, least in zip(pauses, [1, 2, 4, 8, 16, 30, 30, 30], strict=True))
    assert pauses[-1] < 60


async def test_a_lease_is_kept_while_somebody_acts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE", timedelta(seconds=0.3))
    id = (await house.started("ada"))["workspace_id"]
    acting, enough = asyncio.Event(), asyncio.Event()

    async def act(_: str) -> None:
        acting.set()
        await enough.wait()

    task = asyncio.create_task(due.each(house.parts.db, t.Workspace, t.Workspace.id == id, "me", act))
    await acting.wait()
    first = (await house.rows(t.Workspace))[0].leased_until
    await eventually(
        lambda: house.rows(t.Workspace), lambda rows: rows[0].leased_until > first + timedelta(seconds=0.3)
    )
    assert (await due.claim(house.parts.db, t.Workspace, t.Workspace.id == id, "another")) == ()
    enough.set()
    await task


def refusing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """The database is locked for the next `times` prolongings; the list has one entry for each."""
    refused: list[str] = []
    prolong = lease.prolong

    async def locked(session: Any, table: Any, id: str, holder: str) -> bool:
        if len(refused) < times:
            refused.append(id)
            raise OperationalError("UPDATE", {}, Exception("database is locked"))
        return await prolong(session, table, id, holder)

    monkeypatch.setattr(lease, "prolong", locked)
    return refused


async def test_a_database_that_fails_once_stops_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE", timedelta(seconds=3))
    id = (await house.started("ada"))["workspace_id"]
    refused = refusing(monkeypatch, 1)
    first: list[Any] = []

    async def act(_: str) -> None:
        first.append((await house.rows(t.Workspace))[0].leased_until)
        await eventually(lambda: house.rows(t.Workspace), lambda rows: rows[0].leased_until > first[0])
        first.append("done")

    await due.each(house.parts.db, t.Workspace, t.Workspace.id == id, "me", act)
    assert refused == [id]
    assert first[-1] == "done"


async def test_who_cannot_prolong_until_the_lease_has_run_out_is_stopped(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE", timedelta(seconds=0.1))
    id = (await house.started("ada"))["workspace_id"]
    refused = refusing(monkeypatch, 1000)
    cancelled = False

    async def act(_: str) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    await asyncio.wait_for(due.each(house.parts.db, t.Workspace, t.Workspace.id == id, "me", act), 30)
    assert cancelled
    assert 0 < len(refused) < 1000


async def test_who_lost_the_lease_is_stopped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE", timedelta(seconds=0.1))
    id = (await house.started("ada"))["workspace_id"]
    cancelled = False

    async def act(_: str) -> None:
        nonlocal cancelled
        async with house.parts.db.write() as session:
            (await session.get_one(t.Workspace, id)).lease = "somebody else"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    await due.each(house.parts.db, t.Workspace, t.Workspace.id == id, "me", act)
    assert cancelled
    assert (await house.rows(t.Workspace))[0].lease == "somebody else"


async def test_two_loops_on_one_database_do_each_thing_once(house: House) -> None:
    house.engine.scripts["boot-check"] = Runs()
    plans = [await house.started(who) for who in ("ada", "ben", "eve", "root")]
    for who, plan in zip(("ada", "ben", "eve", "root"), plans, strict=True):
        await house.ask(who, "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "vision"})
    loops = [asyncio.create_task(loop.run(house.parts)) for _ in range(2)]
    await eventually(lambda: _value(len(house.engine.workloads)), lambda n: n == 4)
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    assert sorted(source.id for source, _ in house.engine.saves) == sorted(plan["workspace_id"] for plan in plans)
    assert set(house.engine.starts.values()) == {1}


# One listing for all


class Counting(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.listings = 0

    async def observe(self) -> Mapping[WorkloadId, Observed]:
        self.listings += 1
        await asyncio.sleep(0)
        return await super().observe()


async def test_who_asks_at_the_same_time_shares_one_listing() -> None:
    engine = Counting()
    shared = loop.OneListing(engine)
    answers = await asyncio.gather(*(shared.observe() for _ in range(5)))
    assert engine.listings == 1
    assert all(answer is answers[0] for answer in answers)
    await shared.observe()
    assert engine.listings == 2


async def test_nobody_is_told_what_was_before_their_own_act() -> None:
    engine = Counting()
    shared = loop.OneListing(engine)
    began, go_on = asyncio.Event(), asyncio.Event()
    plain = engine.observe

    async def slow() -> Mapping[WorkloadId, Observed]:
        seen = dict(await plain())
        began.set()
        await go_on.wait()
        return seen

    engine.observe = slow  # type: ignore[method-assign]
    first = asyncio.create_task(shared.observe())
    await began.wait()
    engine.workloads[WorkloadId("job-1-a1")] = cast(Any, SimpleNamespace(workers={}))
    second = asyncio.create_task(shared.observe())
    go_on.set()
    assert WorkloadId("job-1-a1") not in await first
    assert WorkloadId("job-1-a1") in await second


async def test_an_error_of_the_listing_reaches_everybody_and_the_next_one_is_new() -> None:
    engine = Counting()
    shared = loop.OneListing(engine)
    engine.unavailable = True
    answers = await asyncio.gather(*(shared.observe() for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineUnavailable] * 3
    engine.unavailable = False
    assert await shared.observe() == {}


# Failpoints


@pytest.mark.parametrize(("named", "code"), [("here", 9), ("elsewhere", 0), ("", 0)])
def test_a_failpoint_kills_only_when_it_is_named(named: str, code: int) -> None:
    program = "from himalia_services.failpoint import failpoint; failpoint('here')"
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "HIMALIA_FAILPOINT": named}, check=False)
    assert ended.returncode == code
