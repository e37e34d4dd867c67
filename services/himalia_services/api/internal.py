"""What the hub's spawner asks: launch plans, private saves, and where it tells what becomes of a server. Unix socket only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia.schema import Environment, Machine, Version
from himalia_services.api.deps import Deps
from himalia_services.api.internal_auth import hub_only
from himalia_services.control import environment as environments
from himalia_services.control import person as people
from himalia_services.control import plan, preset, rights, wire
from himalia_services.control import workspace as workspaces
from himalia_services.errors import NotFound
from himalia_services.model import names
from himalia_services.model.workload import Image
from himalia_services.parts import Parts
from himalia_services.store import tables as t

router = APIRouter(prefix="/internal", tags=["internal"], dependencies=[Depends(hub_only)])


@dataclass(frozen=True, kw_only=True)
class Which:
    workspace_id: str


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What the hub sees of a workspace."""

    workspace_id: str
    status: str
    reason_code: str = ""
    reason_message: str = ""


@dataclass(frozen=True, kw_only=True)
class InternalVersion(Version):
    """A version with its image, once it has one."""

    image: Image | None = None


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the spawn page shows. `locked` says why the environment cannot be chosen."""

    environments: list[Environment]
    machines: list[Machine]
    environment: str
    machine: str
    locked: str


@router.post("/launch-plan")
async def launch_plan(request: plan.LaunchRequest, parts: Deps) -> dict[str, Any]:
    """From rows, at once; then the volumes it names are made, when they are not there."""
    await preset.refresh(parts.db, parts.settings, parts.catalog)
    async with parts.db.write() as session:
        made = await plan.make(session, parts.settings, parts.catalog, request)
    for volume in made.volumes:
        await parts.engine.ensure_volume(volume.name, labels=volume.labels)
    _run_folder(parts, Path(made.run_folder))
    document = asdict(made)
    del document["volumes"]
    return document


def _run_folder(parts: Parts, folder: Path) -> None:
    """0755, since the container's user reads it; what is above it is closed to others."""
    parts.settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)


@router.post("/preserve", status_code=202)
async def preserve(which: Which, parts: Deps) -> InternalVersion:
    async with parts.db.write() as session:
        workspace = await _workspace(session, which.workspace_id)
        row = await environments.preserve(session, workspace, actor=workspace.owner)
        return await _version(session, row)


@router.get("/versions/{id}")
async def version(id: str, parts: Deps) -> InternalVersion:
    async with parts.db.read() as session:
        row = await session.get(t.Version, id)
        if row is None or row.deleted_at is not None:
            raise NotFound(f"There is no version {id[:40]}.")
        return await _version(session, row)


@router.post("/adopted", status_code=204)
async def adopted(which: Which, parts: Deps) -> None:
    async with parts.db.write() as session:
        await workspaces.adopted(session, await _workspace(session, which.workspace_id))


@router.post("/phase", status_code=204)
async def phase(said: Phase, parts: Deps) -> None:
    async with parts.db.write() as session:
        row = await _workspace(session, said.workspace_id)
        await workspaces.phase(session, row, said.status, said.reason_code, said.reason_message)


@router.get("/options")
async def options(
    parts: Deps,
    user: Annotated[str, Query()],
    user_created: Annotated[str, Query()] = "",
    admin: Annotated[bool, Query()] = False,
    groups: Annotated[str, Query(description="Separated by commas")] = "",
    server: Annotated[str, Query()] = "",
    container: Annotated[bool, Query(description="Whether the workspace's container exists")] = True,
) -> Offer:
    await preset.refresh(parts.db, parts.settings, parts.catalog)
    async with parts.db.write() as session:
        person = await people.seen(session, user, user_created)
        await session.flush()
        caller = plan.starter(person, admin, [g for g in groups.split(",") if g])
        workspace = await plan.find(session, person, server)
        have = await plan.have(session, workspace) if workspace is not None else None
        rows = [
            row
            for row in await session.scalars(select(t.Environment).where(rights.listed(caller)))
            if rights.may_use(caller, row)
        ]
        offered = [e for e in await wire.environments(session, caller, rows) if e.latest is not None]
        kept = container or (workspace is not None and await environments.preserved(session, workspace) is not None)
        fallback = str(names.Ref(names.PLATFORM, parts.catalog.default_preset.name))
        return Offer(
            environments=sorted(offered, key=lambda e: (not e.preset, not e.mine, e.ref)),
            machines=list(parts.catalog.machines),
            environment=wire.name(*have) if have is not None else fallback,
            machine=workspace.machine if workspace is not None else parts.catalog.default_machine.name,
            locked=plan.locked(have) if kept else "",
        )


async def _workspace(session: AsyncSession, id: str) -> t.Workspace:
    row = await session.get(t.Workspace, id)
    if row is None:
        raise NotFound(f"There is no workspace {id[:40]}.")
    return row


async def _version(session: AsyncSession, row: t.Version) -> InternalVersion:
    shown = await wire.version(session, row)
    image = plan.picture(row) if row.digest is not None else None
    return InternalVersion(**vars(shown), image=image)
