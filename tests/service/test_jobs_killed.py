"""The control plane is killed between any two steps of a job, and another goes on: nothing is lost, nothing runs twice."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from himalia_services.engines.fake import Ends, Runs
from himalia_services.model.phases import JOB
from himalia_services.parts import Parts
from himalia_services.reconcile import job
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.jobhouse import JobHouse, Killed, attempt, kills_at, opened, statuses

POINTS = re.findall(r'failpoint\("(job\.\w+)"\)', Path(job.__file__).read_text())
#: What is passed on the way of a job that runs and ends; the others belong to a stop and to a deletion.
RUNNING = ["job.admitted", "job.applying", "job.applied", "job.collected", "job.settled"]
READING = ["observe", "result", "logs", "outputs"]
WRITING = ["ensure_volume", "apply", "remove"]
CALLS = [*((verb, False) for verb in READING + WRITING), *((verb, True) for verb in WRITING)]


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[JobHouse]:
    async with opened(parts, hub) as house:
        yield house


def test_every_failpoint_is_walked_through_here() -> None:
    assert sorted(POINTS) == sorted([*RUNNING, "job.told", "job.deleted"])


async def whole(house: JobHouse, id: str) -> dict[str, Any]:
    """The job ended well, once, with all it said and made, and nothing of it is left on the engine."""
    done = await house.over(id)
    await house.work()
    assert done["status"] == "Succeeded", done
    assert house.engine.starts[attempt(id), 0] == 1
    assert house.engine.workloads == {}
    assert await house.log(id) == "said\n"
    assert await house.outputs(id) == {"made.txt": ("new", b"made"), "a.py": ("changed", b"changed")}
    return done


def monotone(done: dict[str, Any]) -> bool:
    seen = statuses(done)
    return all(after in JOB[before] for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize("point", RUNNING)
async def test_killed_at_a_failpoint(house: JobHouse, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    house.engine.script = Ends(0, log=b"said\n", files={"made.txt": b"made", "a.py": b"changed"})
    made = await house.submit(files={"a.py": b"a"})
    passed = kills_at(monkeypatch, point)
    await house.killed()
    assert passed[-1] == point
    assert monotone(await whole(house, made["id"]))


@pytest.mark.parametrize(
    ("verb", "behind"), CALLS, ids=[f"{'behind' if behind else 'before'} {verb}" for verb, behind in CALLS]
)
async def test_killed_around_a_call_of_the_engine(house: JobHouse, verb: str, behind: bool) -> None:
    house.engine.script = Ends(0, log=b"said\n", files={"made.txt": b"made", "a.py": b"changed"})
    made = await house.submit(files={"a.py": b"a"})
    house.engine.fail(verb, Killed(verb), after=behind)
    await house.killed()
    assert monotone(await whole(house, made["id"]))


@pytest.mark.parametrize("point", ["job.told", "job.collected", "job.settled"])
async def test_killed_while_a_job_is_stopped(house: JobHouse, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    running = await house.runs(files={"a.py": b"a"})
    house.engine.write(attempt(running["id"]), b"said\n", {"half.txt": b"half"})
    await house.ask("ada", "POST", f"/jobs/{running['id']}/stop")
    kills_at(monkeypatch, point)
    await house.killed()
    done = await house.over(running["id"])
    await house.work()
    assert (done["status"], done["reason_code"]) == ("Stopped", "stopped_by_user")
    assert await house.outputs(running["id"]) == {"half.txt": ("new", b"half")}
    assert await house.log(running["id"]) == "said\n"
    assert house.engine.workloads == {}


@pytest.mark.parametrize("after", [False, True], ids=["before", "behind"])
async def test_killed_around_the_stop_itself(house: JobHouse, after: bool) -> None:
    running = await house.runs()
    await house.ask("ada", "POST", f"/jobs/{running['id']}/stop")
    house.engine.fail("stop", Killed("stop"), after=after)
    await house.killed()
    assert (await house.over(running["id"]))["status"] == "Stopped"


async def test_killed_while_a_job_is_deleted_leaves_no_row_and_the_sweep_takes_its_files(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.engine.script = Ends(0, log=b"said\n", files={"made.txt": b"made"})
    done = await house.over((await house.submit())["id"])
    await house.ask("ada", "DELETE", f"/jobs/{done['id']}")
    kills_at(monkeypatch, "job.deleted")
    await house.killed()
    assert await house.rows(t.Job) == []
    monkeypatch.setattr(job, "_old_files", lambda files: set(files.digests()))
    await house.work()
    assert list(house.parts.files.digests()) == []
    assert list(house.parts.files.logged()) == []


async def test_a_submit_that_was_answered_is_there_after_a_kill(house: JobHouse) -> None:
    made = await house.submit()
    await house.restart()
    assert (await house.job(made["id"]))["status"] == "Queuing"
    house.engine.script = Ends(0)
    assert (await house.over(made["id"]))["status"] == "Succeeded"


async def test_a_reconciler_that_lost_its_lease_settles_nothing(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that slept through its lease wakes up and finds somebody else at its row."""
    running = await house.runs()
    house.engine.finish(attempt(running["id"]), 0)
    result = house.engine.result

    async def meanwhile(id: Any, worker: int = 0) -> Any:
        async with house.parts.db.write() as session:
            (await session.get_one(t.Job, running["id"])).lease = "another"
        return await result(id, worker)

    monkeypatch.setattr(house.engine, "result", meanwhile)
    await house.work()
    (row,) = await house.rows(t.Job)
    assert (row.status, row.lease, row.collected) == ("Running", "another", False)
    assert list(house.engine.workloads) == [attempt(running["id"])]


async def test_an_error_behind_the_apply_does_not_start_it_again(house: JobHouse) -> None:
    house.engine.script = Runs()
    made = await house.submit()
    house.engine.fail("apply", after=True, times=3)
    await house.work(5)
    assert (await house.job(made["id"]))["status"] == "Running"
    assert house.engine.starts[attempt(made["id"]), 0] == 1
