"""Makes versions true: takes the layer, tries the image out, and removes what failed or was deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import and_, func, or_, select, update

from himalia.schema import LIVE_VERSION_PHASES
from himalia_services.control import environment as environments
from himalia_services.control import preset
from himalia_services.control.plan import picture
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.failpoint import failpoint
from himalia_services.model import names
from himalia_services.model.decide_version import BOOT_SECONDS, Boot, Conclude, Facts, Rest, Save, Wait, decide
from himalia_services.model.environment import save_reason
from himalia_services.model.workload import ImageTarget, Resources, Saved, Workload, WorkloadId, WorkspaceRef
from himalia_services.reconcile import due
from himalia_services.store import lease
from himalia_services.store import tables as t
from himalia_services.store.db import move
from himalia_services.store.tables import now

if TYPE_CHECKING:
    from himalia_services.parts import Parts

log = structlog.get_logger(__name__)

ACTOR = names.PLATFORM
AGAIN = timedelta(seconds=5)
PROGRESS_SECONDS = 0.5
BOOT_RESOURCES = Resources(cpu=2, memory_bytes=2 << 30, pids=1024)

_LIVE = and_(t.Version.status.in_(LIVE_VERSION_PHASES), t.Version.deleted_at.is_(None))
_REFUSE = and_(
    t.Version.digest.is_not(None),
    t.Version.purged.is_(False),
    or_(t.Version.deleted_at.is_not(None), t.Version.status == "Failed"),
)


async def step(parts: Parts, holder: str) -> None:
    """One pass over all versions that are due, and over what the image builder left."""
    await _presets(parts)
    async with asyncio.TaskGroup() as group:
        group.create_task(due.each(parts.db, t.Version, _LIVE, holder, partial(_act, parts, holder)))
        group.create_task(due.each(parts.db, t.Version, _REFUSE, holder, partial(_purge, parts, holder)))


async def _presets(parts: Parts) -> None:
    try:
        await preset.refresh(parts.db, parts.settings, parts.catalog)
    except Exception:
        log.exception("presets_failed")


@dataclass(frozen=True)
class Case:
    """A version's row with what belongs to it."""

    row: t.Version
    parent: t.Version | None
    facts: Facts

    @property
    def boot(self) -> WorkloadId:
        return WorkloadId(names.boot_check(self.row.id))


async def _act(parts: Parts, holder: str, id: str) -> None:
    case = await _load(parts, id)
    match decide(case.facts):
        case Save():
            await _save(parts, holder, case)
        case Boot():
            await _boot(parts, holder, case)
        case Conclude() as end:
            await _conclude(parts, holder, case, end)
        case Wait():
            await _release(parts, holder, id, AGAIN)
        case Rest():
            await _release(parts, holder, id)


async def _load(parts: Parts, id: str) -> Case:
    async with parts.db.read() as session:
        row = await session.get_one(t.Version, id)
        parent = await session.get(t.Version, row.parent_id) if row.parent_id else None
        began = await session.scalar(
            select(func.max(t.Event.time)).where(
                t.Event.target_kind == "version", t.Event.target == id, t.Event.status == "Verifying"
            )
        )
        behind = await session.scalar(
            select(t.Version.id).where(
                t.Version.workspace_id == row.workspace_id,
                t.Version.id != id,
                t.Version.status.in_(("Committing", "Pushing")),
                t.Version.created_at < row.created_at,
            )
        )
    worker = result = None
    if row.status == "Verifying":
        boot = WorkloadId(names.boot_check(id))
        observed = (await parts.engine.observe()).get(boot)
        worker = observed.workers.get(0) if observed is not None else None
        if worker is not None and worker.state == "exited":
            result = await parts.engine.result(boot)
    facts = Facts(
        phase=row.status,
        attempt=row.attempt,
        tries=row.tries,
        behind=behind is not None,
        verifying=now() - began if began is not None else timedelta(),
        worker=worker,
        result=result,
    )
    return Case(row, parent, facts)


# Save


class Told:
    """What a save last said of itself. The engine may say it from any thread."""

    def __init__(self) -> None:
        self.phase, self.sent = "Committing", 0
        self.more = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, phase: str, sent: int) -> None:
        self._loop.call_soon_threadsafe(self._take, phase, sent)

    def _take(self, phase: str, sent: int) -> None:
        self.phase, self.sent = phase, sent
        self.more.set()


async def _save(parts: Parts, holder: str, case: Case) -> None:
    row, parent = case.row, case.parent
    if parent is None or row.workspace_id is None:
        await _fail(parts, holder, case, "workspace_gone", "The workspace that was to be saved is no longer there.")
        return
    target = ImageTarget(repository=row.repository, tag=str(row.number), base=picture(parent))
    source = WorkspaceRef(id=row.workspace_id, container=names.container(parts.settings.prefix, row.workspace_id))
    if not await _begin(parts, holder, row.id):
        return
    failpoint("version.committing")
    told = Told()
    try:
        saved = await _following(parts, holder, row.id, told, parts.engine.save(source, target, told))
    except EngineUnavailable:
        await _unbegin(parts, holder, row.id)
        raise
    except EngineError as error:
        await _fail(parts, holder, case, save_reason(told.phase, error.reason), error.detail)
        return
    failpoint("version.pushed")
    await _pushed(parts, holder, row.id, saved)


async def _begin(parts: Parts, holder: str, id: str) -> bool:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Version, id, holder)
        if row is None:
            return False
        row.attempt += 1
        row.progress_bytes = None
        if row.status != "Committing":
            move(session, "version", row, "Committing", owner=await _owner(session, row), actor=ACTOR)
    return True


async def _unbegin(parts: Parts, holder: str, id: str) -> None:
    """Only what a crash cut off counts as an attempt, not what did not answer."""
    async with parts.db.write() as session:
        row = await lease.held(session, t.Version, id, holder)
        if row is not None:
            row.attempt -= 1


async def _following(parts: Parts, holder: str, id: str, told: Told, work: Coroutine[Any, Any, Saved]) -> Saved:
    """Run a save and keep writing how far it is."""
    writer = asyncio.create_task(_write_progress(parts, holder, id, told))
    try:
        return await work
    finally:
        writer.cancel()
        await asyncio.wait([writer])


async def _write_progress(parts: Parts, holder: str, id: str, told: Told) -> None:
    while True:
        await told.more.wait()
        told.more.clear()
        async with parts.db.write() as session:
            row = await lease.held(session, t.Version, id, holder)
            if row is None:
                return
            row.progress_bytes = told.sent
            if told.phase == "Pushing" and row.status == "Committing":
                move(session, "version", row, "Pushing", owner=await _owner(session, row), actor=ACTOR)
        await asyncio.sleep(PROGRESS_SECONDS)


async def _pushed(parts: Parts, holder: str, id: str, saved: Saved) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Version, id, holder)
        if row is None:
            return
        owner = await _owner(session, row)
        row.digest, row.config_digest = saved.image.digest, saved.image.config_digest
        row.size_bytes, row.layers = saved.size_bytes, saved.layers
        row.progress_bytes = saved.size_bytes
        row.warnings = [f"left_out: {what}" for what in saved.left_out]
        if row.status == "Committing":  # it was too quick for anybody to see
            move(session, "version", row, "Pushing", owner=owner, actor=ACTOR)
        move(session, "version", row, "Verifying", owner=owner, actor=ACTOR)
        await _wake_next(session, row)
        lease.release(row)


async def _wake_next(session: Any, row: t.Version) -> None:
    """Another save of the same workspace may have waited for this one."""
    waiting = and_(t.Version.workspace_id == row.workspace_id, t.Version.id != row.id, t.Version.status == "Committing")
    await session.execute(
        update(t.Version).where(waiting).values(wake_at=now()).execution_options(synchronize_session=False)
    )


# Try out


async def _boot(parts: Parts, holder: str, case: Case) -> None:
    """Start the image without network, home, mounts or anybody's token."""
    workload = Workload(
        id=case.boot,
        image=picture(case.row),
        verb="boot-check",
        spec={"timeout_seconds": BOOT_SECONDS, "env": {}},
        resources=BOOT_RESOURCES,
        network="none",
        home="tmpfs",
    )
    failpoint("version.verifying")
    try:
        await parts.engine.apply(workload)
    except EngineUnavailable:
        raise
    except EngineError as error:
        await _fail(
            parts,
            holder,
            case,
            "boot_check",
            f"The saved environment could not be started to try it out: {error.detail}",
        )
        return
    failpoint("version.booting")
    await _release(parts, holder, case.row.id, AGAIN)


async def _fail(parts: Parts, holder: str, case: Case, code: str, sentence: str) -> None:
    await _conclude(parts, holder, case, Conclude(status="Failed", reason_code=code, reason_message=sentence))


async def _conclude(parts: Parts, holder: str, case: Case, end: Conclude) -> None:
    # the container first: were the row first and we killed between, nobody would look for it any more
    if case.row.digest is not None:
        await parts.engine.remove(case.boot)
    failpoint("version.concluding")
    async with parts.db.write() as session:
        row = await lease.held(session, t.Version, case.row.id, holder)
        if row is None:
            return
        environment = await _owner(session, row)
        row.packages = dict(end.packages)
        row.warnings = [*row.warnings, *end.warnings]
        if end.status == "Saved":
            row.saved_at = now()
        move(
            session,
            "version",
            row,
            end.status,
            owner=environment,
            actor=ACTOR,
            reason_code=end.reason_code,
            reason_message=end.reason_message,
        )
        await _wake_next(session, row)
        lease.release(row)
        if environment.hidden and row.workspace_id is not None:
            await session.flush()
            await environments.prune(session, await session.get_one(t.Workspace, row.workspace_id))


async def _owner(session: Any, row: t.Version) -> t.Environment:
    return await session.get_one(t.Environment, row.environment_id)


async def _release(parts: Parts, holder: str, id: str, again_in: timedelta = timedelta()) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Version, id, holder)
        if row is not None:
            lease.release(row, again_in=again_in)


# Remove


async def _purge(parts: Parts, holder: str, id: str) -> None:
    """Take the manifest out of the registry and the image out of the engine, unless another version is the very same."""
    async with parts.db.read() as session:
        row = await session.get_one(t.Version, id)
        kept = and_(t.Version.id != id, t.Version.deleted_at.is_(None), t.Version.status != "Failed")
        manifest = await session.scalar(
            select(t.Version.id)
            .where(kept, t.Version.repository == row.repository, t.Version.digest == row.digest)
            .limit(1)
        )
        image = await session.scalar(
            select(t.Version.id).where(kept, t.Version.config_digest == row.config_digest).limit(1)
        )
    failpoint("version.purging")
    try:
        if manifest is None and row.digest is not None:
            await parts.registry.delete_manifest(row.repository, row.digest)
        if image is None:
            for name in (row.config_digest, row.digest):  # an engine knows an image by the one or the other
                if name is not None:
                    await parts.engine.remove_image(name)
    except EngineUnavailable:
        raise
    except EngineError as error:
        log.error("purge_refused", version=id, error=error.detail)
    async with parts.db.write() as session:
        held = await lease.held(session, t.Version, id, holder)
        if held is not None:
            held.purged = True
            lease.release(held)
