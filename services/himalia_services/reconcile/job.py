"""Makes jobs true: one after the other into a slot, run, collected, removed; and whatever runs without a row is ended.

A job's end is written only when its log and outputs are kept, in the same transaction. So a kill at any point leaves either a
container to collect again, or an ended job whose container the next pass removes.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from himalia.schema import LIVE_JOB_STATES, LIVE_VERSION_PHASES
from himalia_services.control.plan import picture
from himalia_services.errors import EngineError, EngineUnavailable, Unavailable
from himalia_services.failpoint import failpoint
from himalia_services.model import job as values
from himalia_services.model import names
from himalia_services.model.job import (
    Admit,
    Apply,
    Collect,
    Conclusion,
    Decision,
    Delete,
    End,
    Facts,
    Kill,
    Queue,
    Rest,
    Run,
    Term,
    Wait,
    conclude,
    decide,
)
from himalia_services.model.workload import Input, Mount, Resources, WorkerObserved, Workload, WorkloadId
from himalia_services.reconcile import due, outputs
from himalia_services.store import lease
from himalia_services.store import tables as t
from himalia_services.store.db import Database, move, record
from himalia_services.store.files import Files
from himalia_services.store.tables import now

if TYPE_CHECKING:
    from himalia_services.parts import Parts

log = structlog.get_logger(__name__)

ACTOR = names.PLATFORM
#: Who has a slot.
ACTIVE = ("EnvPreparing", "Running", "Stopping")
#: An engine's hint may be lost.
AGAIN = timedelta(seconds=5)
#: Waiting jobs are woken by the end of the one before.
QUEUED = timedelta(days=1)
#: Whatever a program writes, a log may not fill the disk.
LOG_BYTES = 1 << 30
ORPHAN_SECONDS = 30.0
INPUT_KEPT = timedelta(hours=1)
SWEEP_SECONDS = 600.0
_STEPS = 8

_DUE = or_(t.Job.status.in_(LIVE_JOB_STATES), t.Job.delete_wanted.is_(True))
_OURS = re.compile(r"(job-[0-9a-f]+)-a(\d+)|(boot-[0-9a-f]+)")


async def step(parts: Parts, holder: str) -> None:
    """One pass over all jobs that are due, and over what runs without one."""
    await _wake_head(parts)
    await due.each(parts.db, t.Job, _DUE, holder, partial(_act, parts, holder))
    await _tidy(parts)


async def _act(parts: Parts, holder: str, id: str) -> None:
    """Step after step of one job, until it has to wait."""
    for _ in range(_STEPS):
        case = await _load(parts, id)
        if case is None:
            return
        if await _do(parts, holder, case, decide(case.facts)):
            return
    await _release(parts, holder, id, timedelta())


@dataclass(frozen=True)
class Case:
    """A job's row with what the engine reports of its attempt."""

    row: t.Job
    version: t.Version
    facts: Facts
    before: Mapping[str, str]  # the input's regular files

    @property
    def workload(self) -> WorkloadId:
        return values.workload_id(self.row.id, self.row.attempt)


async def _load(parts: Parts, id: str) -> Case | None:
    async with parts.db.read() as session:
        row = await session.get(t.Job, id)
        if row is None:
            return None
        version = await session.get_one(t.Version, row.version_id)
        slot = row.status == "Queuing" and await _next(session, parts.settings.job_slots) == id
        packed = await session.get(t.Input, (row.input["digest"], row.owner_id)) if row.input else None
    worker = await _worker(parts, values.workload_id(row.id, row.attempt)) if row.status in ACTIVE else None
    facts = Facts(
        status=row.status,
        stop_reason=row.stop_reason,
        delete_wanted=row.delete_wanted,
        slot=slot,
        running=now() - row.started_at if row.started_at else timedelta(),
        max_run=timedelta(seconds=row.max_run_seconds) if row.max_run_seconds else None,
        stopping=now() - row.stop_sent_at if row.stop_sent_at else None,
        worker=worker,
    )
    return Case(row, version, facts, packed.listing if packed is not None else {})


async def _worker(parts: Parts, id: WorkloadId) -> WorkerObserved | None:
    observed = (await parts.engine.observe()).get(id)
    return observed.workers.get(0) if observed is not None else None


async def _do(parts: Parts, holder: str, case: Case, decision: Decision) -> bool:
    """Take one step; whether the row was given back."""
    match decision:
        case Queue():
            await _enter(parts, holder, case, "Queuing")
        case Admit():
            return not await _admit(parts, holder, case)
        case Apply():
            return await _apply(parts, holder, case)
        case Run():
            await _enter(parts, holder, case, "Running")
        case Term(reason):
            await parts.engine.stop(case.workload, values.GRACE)
            failpoint("job.told")
            await _told(parts, holder, case, reason)
        case Kill():
            await parts.engine.stop(case.workload, timedelta())
            await _release(parts, holder, case.row.id, AGAIN)
            return True
        case Collect():
            await _collect(parts, holder, case)
            return True
        case End():
            await _end(parts, holder, case, conclude(None, None, case.row.stop_reason, stopped=True))
            return True
        case Delete():
            await _delete(parts, holder, case)
            return True
        case Wait(until):
            waiting = case.row.status == "Queuing"
            await _release(parts, holder, case.row.id, QUEUED if waiting else min(until or AGAIN, AGAIN))
            return True
        case Rest():
            await _release(parts, holder, case.row.id, timedelta())
            return True
    return False


# Into a slot


async def _next(session: AsyncSession, slots: int) -> str | None:
    """Whose turn it is; None while all slots are taken."""
    active = await session.scalar(select(func.count()).where(t.Job.status.in_(ACTIVE)))
    if (active or 0) >= slots:
        return None
    return await session.scalar(
        select(t.Job.id).where(t.Job.status == "Queuing").order_by(t.Job.created_at, t.Job.id).limit(1)
    )


async def _admit(parts: Parts, holder: str, case: Case) -> bool:
    """Take a slot, if it is still this job's turn: the count and the move are one transaction. False: the row was given back."""
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, case.row.id, holder)
        if row is None:
            return False
        if row.status != case.row.status:  # a person was quicker
            return True
        if await _next(session, parts.settings.job_slots) != row.id:
            lease.release(row, again_in=QUEUED)
            return False
        move(session, "job", row, "EnvPreparing", owner=row, actor=ACTOR)
    failpoint("job.admitted")
    return True


async def _wake_head(parts: Parts) -> None:
    """The next in the queue is due when a slot is free, whatever was lost on the way."""
    async with parts.db.read() as session:
        id = await _next(session, parts.settings.job_slots)
        head = await session.get(t.Job, id) if id is not None else None
    if head is not None and head.wake_at > now() and head.lease is None:
        async with parts.db.write() as session:
            await session.execute(update(t.Job).where(t.Job.id == head.id, t.Job.lease.is_(None)).values(wake_at=now()))


# Run


async def _apply(parts: Parts, holder: str, case: Case) -> bool:
    failpoint("job.applying")
    try:
        for name, labels in _volumes(case.row).items():
            await parts.engine.ensure_volume(name, labels=labels)
        await parts.engine.apply(_workload(parts, case))
    except EngineUnavailable:
        raise
    except EngineError as error:
        code = error.reason if error.reason in ("image_gone", "input_gone") else "start_failed"
        await _end(parts, holder, case, Conclusion(status="Failed", reason_code=code, reason_message=error.detail))
        return True
    failpoint("job.applied")
    worker = await _worker(parts, case.workload)
    if worker is None or worker.state == "created":  # the engine takes its time
        await _release(parts, holder, case.row.id, timedelta(seconds=1))
        return True
    return False


def _volumes(row: t.Job) -> dict[str, dict[str, str]]:
    return {mount["source"]: mount["labels"] for mount in row.mounts}


def _workload(parts: Parts, case: Case) -> Workload:
    row = case.row
    machine = row.machine
    env = {
        **row.env,
        "HIMALIA_JOB": row.id,
        "HIMALIA_ATTEMPT": str(row.attempt),
        "HIMALIA_ENVIRONMENT": row.environment_ref,
        "MEM_LIMIT": str(machine["memory_bytes"]),
        "CPU_LIMIT": f"{machine['cpu']:g}",
    }
    pack = parts.files.path(row.input["digest"]) if row.input else None
    return Workload(
        id=case.workload,
        image=picture(case.version),
        verb="job",
        spec=values.spec(row.kind, row.command, row.working_dir, env),
        resources=Resources(cpu=machine["cpu"], memory_bytes=machine["memory_bytes"], shm_bytes=machine["shm_bytes"]),
        mounts=tuple(Mount(source=m["source"], target=m["target"], read_only=m["read_only"]) for m in row.mounts),
        input=Input(pack=pack, path=row.input["path"] if row.input else values.NOWHERE),
        labels={"himalia.job": row.id},
    )


async def _enter(parts: Parts, holder: str, case: Case, status: str) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, case.row.id, holder)
        if row is None or row.status != case.row.status:  # a person was quicker
            return
        if status == "Running":
            row.started_at = _started(case)
        move(session, "job", row, status, owner=row, actor=ACTOR)


def _started(case: Case) -> Any:
    worker = case.facts.worker
    return worker.started_at if worker is not None and worker.started_at is not None else now()


async def _told(parts: Parts, holder: str, case: Case, reason: str) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, case.row.id, holder)
        if row is None:
            return
        row.stop_reason = row.stop_reason or reason
        row.stop_sent_at = row.stop_sent_at or now()
        if row.started_at is None:
            row.started_at = _started(case)
        if row.status != "Stopping":
            move(session, "job", row, "Stopping", owner=row, actor=ACTOR)


# Its end


async def _collect(parts: Parts, holder: str, case: Case) -> None:
    """Take log and outputs, then say how it ended, then remove the container."""
    row = case.row
    result = await parts.engine.result(case.workload)
    size = await parts.files.put_log(row.id, row.attempt, 0, parts.engine.logs(case.workload), limit=LOG_BYTES)
    collected = await _outputs(parts, case)
    end = conclude(case.facts.worker, result, row.stop_reason, stopped=row.stop_sent_at is not None)
    if collected.left_out:
        end = replace(end, reason_message=f"{end.reason_message} {_too_much(collected.left_out)}".strip())
    failpoint("job.collected")
    await _settle(parts, holder, case, end, collected.made, size)
    failpoint("job.settled")
    await parts.engine.remove(case.workload)


def _too_much(left_out: int) -> str:
    most = outputs.USUAL
    return (
        f"{left_out} files it made are not among the outputs: a job keeps {most.files:,} files and "
        f"{most.total_bytes // 10**9} GB. Write more than that into home or a group's folder."
    )


async def _outputs(parts: Parts, case: Case) -> outputs.Collected:
    if case.facts.worker is None:
        return outputs.Collected()
    pack = parts.files.path(case.row.input["digest"]) if case.row.input else None
    try:
        return await outputs.collect(parts.files, parts.engine.outputs(case.workload), case.before, pack)
    except EngineUnavailable:
        raise
    except EngineError as error:
        if error.reason != "engine_lost":
            raise
        return outputs.Collected()


async def _settle(
    parts: Parts, holder: str, case: Case, end: Conclusion, made: Sequence[outputs.Made], log_bytes: int
) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, case.row.id, holder)
        if row is None:
            raise due.Lost(case.row.id)
        if not await asyncio.to_thread(lambda: all(parts.files.has(file.digest) for file in made)):
            # swept between being kept and being written down: the container is still there to collect from
            raise Unavailable("Outputs went away while they were collected; they are collected again.")
        session.add_all(_output(row, file) for file in made)
        row.collected, row.log_bytes = True, log_bytes
        worker = case.facts.worker
        if worker is not None:
            row.exit_code = worker.exit_code
            if worker.started_at is not None and row.started_at is None:
                row.started_at = worker.started_at
                if row.status == "EnvPreparing":  # it was too quick for anybody to see
                    move(session, "job", row, "Running", owner=row, actor=ACTOR)
        row.finished_at = (worker.finished_at if worker is not None else None) or now()
        await _over(session, row, end)


def _output(row: t.Job, file: outputs.Made) -> t.Output:
    return t.Output(
        job_id=row.id,
        attempt=row.attempt,
        worker=0,
        path=file.path,
        digest=file.digest,
        size_bytes=file.size_bytes,
        mode=file.mode,
        change=file.change,
    )


async def _end(parts: Parts, holder: str, case: Case, end: Conclusion) -> None:
    """Over without a log or outputs. The container first: were the row first, it would be one without a live job."""
    await parts.engine.remove(case.workload)
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, case.row.id, holder)
        if row is None:
            return
        row.finished_at = now()
        await _over(session, row, end)


async def _over(session: AsyncSession, row: t.Job, end: Conclusion) -> None:
    move(
        session,
        "job",
        row,
        end.status,
        owner=row,
        actor=ACTOR,
        reason_code=end.reason_code,
        reason_message=end.reason_message,
    )
    lease.release(row)
    following = (
        select(t.Job.id)
        .where(t.Job.status == "Queuing")
        .order_by(t.Job.created_at, t.Job.id)
        .limit(1)
        .scalar_subquery()
    )
    await session.execute(
        update(t.Job)
        .where(t.Job.id == following, t.Job.lease.is_(None))
        .values(wake_at=now())
        .execution_options(synchronize_session=False)
    )


async def _delete(parts: Parts, holder: str, case: Case) -> None:
    await parts.engine.remove(case.workload)
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, case.row.id, holder)
        if row is None:
            return
        digests = set(await session.scalars(select(t.Output.digest).where(t.Output.job_id == row.id)))
        row.reason_code, row.reason_message = "deleted", ""
        record(session, "job", row, owner=row, actor=row.owner)
        await session.execute(delete(t.Output).where(t.Output.job_id == row.id))
        await session.delete(row)
    failpoint("job.deleted")
    await asyncio.to_thread(parts.files.delete_logs, case.row.id)
    await _drop_files(parts, digests)


async def _release(parts: Parts, holder: str, id: str, again_in: timedelta) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Job, id, holder)
        if row is not None:
            lease.release(row, again_in=again_in)


# What nobody needs


@dataclass
class Rounds:
    """When this process last looked for what nobody needs, and since when it has seen workloads without a row."""

    orphans: float = float("-inf")
    files: float = float("-inf")
    seen: dict[WorkloadId, float] = field(default_factory=dict)


_ROUNDS: WeakKeyDictionary[Database, Rounds] = WeakKeyDictionary()


async def _tidy(parts: Parts) -> None:
    rounds, moment = _ROUNDS.setdefault(parts.db, Rounds()), time.monotonic()
    if moment - rounds.orphans >= AGAIN.total_seconds():
        rounds.orphans = moment
        await _reap(parts, rounds.seen, moment)
    if moment - rounds.files >= SWEEP_SECONDS:
        rounds.files = moment
        await _sweep(parts)


async def _reap(parts: Parts, seen: dict[WorkloadId, float], moment: float) -> None:
    """End and remove workloads that no row wants. One without any row gets some time: its row may be on the way, or a backup."""
    observed = {id for id in await parts.engine.observe() if _OURS.fullmatch(id)}
    orphans: set[WorkloadId] = set()
    for id in observed:
        match await _wanted(parts, id):
            case "over":
                await parts.engine.remove(id)
            case "unknown":
                orphans.add(id)
    for id in set(seen) - orphans:
        del seen[id]
    for id in orphans:
        if moment - seen.setdefault(id, moment) >= ORPHAN_SECONDS:
            log.warning("orphan_removed", workload=id)
            await parts.engine.remove(id)


async def _wanted(parts: Parts, id: WorkloadId) -> Literal["wanted", "over", "unknown"]:
    job, attempt, boot = _OURS.fullmatch(id).groups()  # pyright: ignore[reportOptionalMemberAccess]  # the caller has matched it
    async with parts.db.read() as session:
        if boot is not None:
            version = await session.get(t.Version, f"ver-{boot.removeprefix('boot-')}")
            return "wanted" if version is not None and version.status in LIVE_VERSION_PHASES else "unknown"
        row = await session.get(t.Job, job)
    if row is None:
        return "unknown"
    return "wanted" if row.attempt == int(attempt) and row.status in LIVE_JOB_STATES else "over"


async def _sweep(parts: Parts) -> None:
    """Packs no job was made of, and files that a crash left without a row."""
    old = now() - INPUT_KEPT
    async with parts.db.read() as session:
        used = {
            (input["digest"], owner)
            for input, owner in await session.execute(select(t.Job.input, t.Job.owner_id))
            if input
        }
        packs = await session.execute(select(t.Input.digest, t.Input.owner_id).where(t.Input.created_at < old))
        unused = [(digest, owner) for digest, owner in packs if (digest, owner) not in used]
    for digest, owner in unused:
        await _drop_input(parts, digest, owner)
    # what is kept is listed before the rows that name it: a row that comes between is then found
    kept = await asyncio.to_thread(_old_files, parts.files)
    logged = await asyncio.to_thread(lambda: set(parts.files.logged()))
    async with parts.db.read() as session:
        jobs = set(await session.scalars(select(t.Job.id)))
        named = set(await session.scalars(select(t.Output.digest))) | set(await session.scalars(select(t.Input.digest)))
    await _drop_files(parts, kept - named)
    for job in logged - jobs:
        await asyncio.to_thread(parts.files.delete_logs, job)
    await asyncio.to_thread(parts.files.tidy, time.time())


def _old_files(files: Files) -> set[str]:
    moment = time.time()
    return {digest for digest in files.digests() if files.age(digest, moment) > INPUT_KEPT.total_seconds()}


async def _drop_input(parts: Parts, digest: str, owner: str) -> None:
    async with parts.db.write() as session:
        row = await session.get(t.Input, (digest, owner))
        jobs = await session.scalars(select(t.Job.input).where(t.Job.owner_id == owner))
        if (
            row is not None
            and row.created_at < now() - INPUT_KEPT
            and all(input.get("digest") != digest for input in jobs)
        ):
            await session.delete(row)


async def _drop_files(parts: Parts, digests: Collection[str]) -> None:
    """Delete those of these files that no row names. In a transaction that writes, so that no row can begin to name one meanwhile."""
    for digest in digests:
        async with parts.db.write() as session:
            output = await session.scalar(select(t.Output.digest).where(t.Output.digest == digest).limit(1))
            input = await session.scalar(select(t.Input.digest).where(t.Input.digest == digest).limit(1))
            if output is None and input is None:
                await asyncio.to_thread(parts.files.delete, digest)
