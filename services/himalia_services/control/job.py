"""The verbs on jobs: submit, find, stop, delete. They write rows; the reconciler makes them true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia import schema
from himalia_services.control import plan, preset, rights, wire
from himalia_services.errors import Invalid, NotFound
from himalia_services.model import job as values
from himalia_services.model import names
from himalia_services.model.caller import Caller
from himalia_services.model.catalog import Catalog
from himalia_services.model.phases import terminal
from himalia_services.settings import Settings
from himalia_services.store import tables as t
from himalia_services.store.db import move, record
from himalia_services.store.tables import now

#: A row whose deletion was asked for and that is over is gone for everybody.
_GONE = and_(t.Job.delete_wanted.is_(True), t.Job.status.not_in(schema.LIVE_JOB_STATES))


async def find(session: AsyncSession, caller: Caller, id: str) -> t.Job:
    """A job of the caller's; admins find everybody's."""
    row = await session.get(t.Job, id)
    if row is None or not rights.owns(caller, row) or (row.delete_wanted and terminal("job", row.status)):
        raise NotFound(f"There is no job {id[:40]}.", code="job_not_found")
    return row


def listed(caller: Caller, statuses: Sequence[str], *, everybody: bool = False) -> Select[Any]:
    """The caller's jobs, or everybody's; of these statuses, if any are named."""
    query = select(t.Job).where(~_GONE)
    if not everybody:
        query = query.where(t.Job.owner_id == caller.person_id)
    return query.where(t.Job.status.in_(statuses)) if statuses else query


async def submit(
    session: AsyncSession, settings: Settings, catalog: Catalog, caller: Caller, request: schema.JobRequest
) -> t.Job:
    """Put a job into the queue. The environment is pinned by digest now, and so are the folders it will see."""
    values.check(request)
    environment, version = await preset.resolve(session, settings, catalog, caller, request.environment)
    machine = catalog.machine(request.machine)
    await _check_input(session, caller, request.input)
    row = t.Job(
        id=names.fresh("job"),
        owner_id=caller.person_id,
        owner=caller.name,
        status="Creating",
        reason_code="",
        reason_message="",
        display_name=values.title(request),
        kind=request.kind,
        command=values.command(request),
        env=dict(request.env),
        version_id=version.id,
        environment_ref=wire.name(environment, version),
        digest=version.digest,
        machine=asdict(machine),
        working_dir=values.working_dir(request),
        input=asdict(request.input) if request.input is not None else {},
        mounts=_mounts(settings, caller, request),
        max_run_seconds=request.max_run_seconds,
        attempt=1,
    )
    session.add(row)
    await session.flush()
    record(session, "job", row, owner=row, actor=caller.name)
    move(session, "job", row, "Queuing", owner=row, actor=caller.name)
    return row


async def _check_input(session: AsyncSession, caller: Caller, input: schema.JobInput | None) -> None:
    if input is not None and await session.get(t.Input, (input.digest, caller.person_id)) is None:
        raise Invalid(
            f"The input {input.digest[:80]} is not here. Upload it with PUT /inputs/{{digest}} first.",
            code="input_gone",
        )


def _mounts(settings: Settings, caller: Caller, request: schema.JobRequest) -> list[dict[str, Any]]:
    """Mounts with the labels their volumes are made with, should the person never have had a workspace."""
    place = request.input.path if request.input is not None else values.NOWHERE
    found = plan.volumes(settings, caller.person_id, caller.groups)
    labels = {volume.name: dict(volume.labels) for volume, _ in found}
    mounts = values.mounts([(volume.name, target) for volume, target in found], place)
    return [{**asdict(mount), "labels": labels[mount.source]} for mount in mounts]


def stop(session: AsyncSession, caller: Caller, row: t.Job) -> None:
    """Ask a job to end. One that waits is over at once; one that has ended stays as it is."""
    if terminal("job", row.status):
        return
    if row.status in ("Creating", "Queuing"):
        row.stop_reason, row.finished_at = values.STOPPED_BY_USER, now()
        end = values.conclude(None, None, values.STOPPED_BY_USER, stopped=True)
        move(
            session,
            "job",
            row,
            end.status,
            owner=row,
            actor=caller.name,
            reason_code=end.reason_code,
            reason_message=end.reason_message,
        )
        return
    if row.status != "Stopping":
        row.stop_reason, row.wake_at = values.STOPPED_BY_USER, now()
        move(session, "job", row, "Stopping", owner=row, actor=caller.name)


def delete(session: AsyncSession, caller: Caller, row: t.Job) -> None:
    """Delete a job, its log and its outputs; one that is not over is stopped first."""
    stop(session, caller, row)
    row.delete_wanted, row.wake_at = True, now()


# As the API gives it


async def jobs(session: AsyncSession, rows: Sequence[t.Job]) -> list[schema.Job]:
    ids = [row.id for row in rows]
    history = await wire.histories(session, "job", ids)
    outputs = await _outputs(session, ids)
    places = await _places(session) if any(row.status == "Queuing" for row in rows) else {}
    return [_job(row, history.get(row.id, []), outputs.get(row.id, (0, 0)), places.get(row.id)) for row in rows]


async def job(session: AsyncSession, row: t.Job) -> schema.Job:
    return (await jobs(session, [row]))[0]


async def _outputs(session: AsyncSession, ids: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    o = t.Output
    query = select(o.job_id, func.count(), func.sum(o.size_bytes)).where(o.job_id.in_(ids)).group_by(o.job_id)
    return {id: (count, size) for id, count, size in await session.execute(query)}


async def _places(session: AsyncSession) -> Mapping[str, int]:
    """Who waits, and how many are before them and they themselves."""
    queue = await session.scalars(
        select(t.Job.id).where(t.Job.status == "Queuing").order_by(t.Job.created_at, t.Job.id)
    )
    return {id: place for place, id in enumerate(queue, 1)}


def _job(row: t.Job, history: list[schema.StatusEntry], outputs: tuple[int, int], place: int | None) -> schema.Job:
    return schema.Job(
        id=row.id,
        owner=row.owner,
        display_name=row.display_name,
        kind=row.kind,  # pyright: ignore[reportArgumentType]  # the column holds these words only
        command=list(row.command),
        environment=row.environment_ref,
        digest=row.digest,
        machine=str(row.machine.get("name", "")),
        working_dir=row.working_dir,
        status=row.status,
        reason_code=row.reason_code,
        reason_message=row.reason_message,
        status_history=history,
        exit_code=row.exit_code,
        attempt=row.attempt,
        queue_position=place,
        max_run_seconds=row.max_run_seconds,
        input=schema.JobInput(**row.input) if row.input else None,
        outputs=outputs[0],
        output_bytes=outputs[1],
        log_bytes=row.log_bytes,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


# Outputs


async def outputs(
    session: AsyncSession, row: t.Job, *, after: str = "", limit: int | None = None
) -> list[tuple[str, t.Output]]:
    """A job's outputs by the path people know them by, in its order; those of other workers lie in a folder of theirs."""
    query = select(t.Output).where(t.Output.job_id == row.id, t.Output.attempt == row.attempt)
    found = sorted(((shown(row), row) for row in await session.scalars(query)), key=lambda pair: pair[0])
    following = [pair for pair in found if pair[0] > after]
    return following if limit is None else following[:limit]


def shown(output: t.Output) -> str:
    return output.path if output.worker == 0 else f"worker-{output.worker}/{output.path}"


async def output(session: AsyncSession, row: t.Job, path: str) -> t.Output:
    o = t.Output
    worker, inner = _worker(path)
    found = await session.scalars(
        select(o).where(
            o.job_id == row.id,
            o.attempt == row.attempt,
            or_(and_(o.worker == 0, o.path == path), and_(o.worker == worker, o.path == inner)),
        )
    )
    for one in found:
        if shown(one) == path:
            return one
    raise NotFound(
        f"The job {row.id} has no output {path[:200]}.", code="output_not_found", link=f"/jobs/{row.id}/outputs"
    )


def _worker(path: str) -> tuple[int, str]:
    """`worker-2/a/b` is `a/b` of worker 2."""
    folder, _, inner = path.partition("/")
    number = folder.removeprefix("worker-")
    return (
        (int(number), inner) if folder.startswith("worker-") and number.isdecimal() and len(number) < 6 else (0, path)
    )
