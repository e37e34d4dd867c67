"""The launch plan of a workspace: what its container is made of, answered at once from rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia import schema
from himalia_services.control import environment as environments
from himalia_services.control import person as people
from himalia_services.control import preset, rights, wire
from himalia_services.errors import Conflict, Forbidden
from himalia_services.model import environment as values
from himalia_services.model import names
from himalia_services.model.caller import Caller
from himalia_services.model.catalog import Catalog
from himalia_services.model.workload import Image, Mount
from himalia_services.model.workspace import mounts_hash
from himalia_services.settings import Settings
from himalia_services.store import tables as t
from himalia_services.store.db import record

HOME = "/home/jovyan"
SHARED = f"{HOME}/shared"


@dataclass(frozen=True, kw_only=True)
class UserOptions:
    """What a person chose; empty means as before."""

    environment: str = ""
    machine: str = ""


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """Who starts which server. `container` says whether its container exists; an answer that does not say means it may."""

    user: str
    user_created: str
    admin: bool = False
    groups: list[str] = field(default_factory=list)
    server: str = ""
    display_name: str = ""
    user_options: UserOptions = field(default_factory=UserOptions)
    container: bool = True


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume a plan names, with the labels it is made with."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the hub's spawner needs to start a workspace; `volumes` is for us."""

    workspace_id: str
    container: str
    network: str
    image: Image
    environment: str
    runs_as_you: str
    machine: Mapping[str, Any]
    mounts: Sequence[Mount]
    mounts_hash: str
    run_folder: str
    labels: Mapping[str, str]
    env: Mapping[str, str]
    volumes: Sequence[Volume]


async def make(session: AsyncSession, settings: Settings, catalog: Catalog, request: LaunchRequest) -> Plan:
    """The plan of one server. The same request gives the same workspace; rights are asked anew each time."""
    person = await people.seen(session, request.user, request.user_created)
    await session.flush()
    caller = starter(person, request.admin, request.groups)
    workspace = await _workspace(session, person, request, catalog)
    if workspace.preserved_version_id is None and not request.container:
        # the container went between the private save and the word that a new one was made from it
        kept = await environments.preserved(session, workspace)
        workspace.preserved_version_id = kept.id if kept is not None else None
    environment, version = await _choose(session, settings, catalog, caller, workspace, request)
    if workspace.version_id != version.id:
        workspace.version_id, workspace.preserved_version_id = version.id, None
    image = version
    if workspace.preserved_version_id is not None:
        image = await session.get_one(t.Version, workspace.preserved_version_id)
    size = _machine(catalog, workspace, request.user_options.machine)
    workspace.machine, workspace.wanted_version_id = size.name, None
    return _plan(settings, caller, workspace, environment, version, image, size)


def starter(person: t.Person, admin: bool, groups: Collection[str]) -> Caller:
    """The person whose server starts, as the hub describes them."""
    return Caller(name=person.name, person_id=person.id, admin=admin, groups=tuple(groups))


async def find(session: AsyncSession, person: t.Person, server: str) -> t.Workspace | None:
    w = t.Workspace
    return await session.scalar(select(w).where(w.owner_id == person.id, w.name == server, w.deleted_at.is_(None)))


async def _workspace(session: AsyncSession, person: t.Person, request: LaunchRequest, catalog: Catalog) -> t.Workspace:
    row = await find(session, person, request.server)
    if row is not None:
        if row.status == "Deleting":
            raise Conflict(
                "This workspace is being deleted. Choose another name, or wait until it is gone.", code="deleting"
            )
        row.display_name = request.display_name or row.display_name
        return row
    row = fresh(person, request.server, request.display_name, catalog.default_machine.name)
    session.add(row)
    await session.flush()
    record(session, "workspace", row, owner=row, actor=person.name)
    return row


def fresh(person: t.Person, name: str, display_name: str, size: str, status: str = "Creating") -> t.Workspace:
    """A new workspace's row."""
    return t.Workspace(
        id=names.fresh("ws"),
        owner_id=person.id,
        owner=person.name,
        name=name,
        display_name=display_name,
        machine=size,
        status=status,
        reason_code="",
        reason_message="",
        wanted="",
    )


# Which environment


async def _choose(
    session: AsyncSession,
    settings: Settings,
    catalog: Catalog,
    caller: Caller,
    workspace: t.Workspace,
    request: LaunchRequest,
) -> tuple[t.Environment, t.Version]:
    made_from = await have(session, workspace)
    kept = request.container or workspace.preserved_version_id is not None
    asked = request.user_options.environment
    if made_from is not None and _means(asked, made_from, kept) and workspace.wanted_version_id is None:
        return _usable(caller, *made_from)
    wanted = await _wanted(session, settings, catalog, caller, workspace, asked)
    if made_from is None or not kept or wanted[1].id == made_from[1].id:
        return wanted
    raise Conflict(
        f"This workspace runs {wire.name(*made_from)}. Save it, or open {wire.name(*wanted)} as a workspace of its own.",
        code="other_environment",
        link=f"/workspaces/{workspace.id}",
    )


def _means(asked: str, have: tuple[t.Environment, t.Version], kept: bool) -> bool:
    """Whether what was asked is what the workspace has. The hub repeats what was chosen once, so for a container that is there a name
    without a number goes on meaning the version it was made from, however many newer ones there are."""
    return asked in ("", wire.name(*have)) or (kept and asked == wire.name(have[0]))


async def have(session: AsyncSession, workspace: t.Workspace) -> tuple[t.Environment, t.Version] | None:
    """What the workspace was made from, as its person chose it."""
    if workspace.version_id is None:
        return None
    version = await session.get_one(t.Version, workspace.version_id)
    return await session.get_one(t.Environment, version.environment_id), version


async def _wanted(
    session: AsyncSession, settings: Settings, catalog: Catalog, caller: Caller, workspace: t.Workspace, asked: str
) -> tuple[t.Environment, t.Version]:
    if asked:
        return await preset.resolve(session, settings, catalog, caller, asked)
    if workspace.wanted_version_id is not None:
        version = await session.get_one(t.Version, workspace.wanted_version_id)
        return _usable(caller, await session.get_one(t.Environment, version.environment_id), version)
    return await preset.default(session, settings, catalog)


def _usable(caller: Caller, environment: t.Environment, version: t.Version) -> tuple[t.Environment, t.Version]:
    ref = wire.name(environment, version)
    if not rights.may_use(caller, environment):
        raise Forbidden(
            f"{ref}, which this workspace was made from, is not shared with you any more. Ask {environment.owner} to share it again, "
            "or save this workspace as an environment of your own and open that.",
            code="not_shared",
        )
    if version.deleted_at is not None:
        raise Conflict(f"{ref} was deleted. Choose another environment.", code="version_deleted")
    return environment, version


# What else


def _machine(catalog: Catalog, workspace: t.Workspace, asked: str) -> schema.Machine:
    if asked:
        return catalog.machine(asked)
    offered = (m for m in catalog.machines if m.name == workspace.machine)
    return next(offered, catalog.default_machine)  # the one it had may be offered no longer


def volumes(settings: Settings, person_id: str, groups: Collection[str]) -> list[tuple[Volume, str]]:
    """A person's home and the folders of their groups: the volume and where it appears. Jobs mount the same."""
    ours = {"himalia.instance": settings.instance}
    home = Volume(name=names.home_volume(settings.prefix, person_id), labels=ours | {"himalia.kind": "home"})
    shared = [
        (
            Volume(name=names.group_volume(settings.prefix, group), labels=ours | {"himalia.kind": "group"}),
            f"{SHARED}/{names.folder(group)}",
        )
        for group in sorted(set(groups))
    ]
    return [(home, HOME), *shared]


def _plan(
    settings: Settings,
    caller: Caller,
    workspace: t.Workspace,
    environment: t.Environment,
    version: t.Version,
    image: t.Version,
    size: schema.Machine,
) -> Plan:
    found = volumes(settings, caller.person_id, caller.groups)
    mounts = [Mount(source=volume.name, target=target) for volume, target in found]
    digest = mounts_hash(mounts)
    ref = wire.name(environment, version)
    source = picture(image)
    return Plan(
        workspace_id=workspace.id,
        container=names.container(settings.prefix, workspace.id),
        network=settings.network,
        image=source,
        environment=ref,
        runs_as_you=values.runs_as_you(
            environment.owner, mine=rights.mine(caller, environment), preset=rights.preset(environment)
        ),
        machine={"name": size.name, "cpu": size.cpu, "memory_bytes": size.memory_bytes, "shm_bytes": size.shm_bytes},
        mounts=mounts,
        mounts_hash=digest,
        run_folder=str(run_folder(settings, workspace.id)),
        labels={
            "himalia.instance": settings.instance,
            "himalia.kind": "workspace",
            "himalia.workspace": workspace.id,
            "himalia.image": source.config_digest,
            "himalia.mounts": digest,
            "himalia.shm": str(size.shm_bytes),
        },
        env={
            "HIMALIA_URL": settings.internal_url,
            "HIMALIA_PUBLIC_URL": settings.service_url,
            "HIMALIA_WORKSPACE": workspace.id,
            "HIMALIA_ENVIRONMENT": ref,
            "MEM_LIMIT": str(size.memory_bytes),
            "CPU_LIMIT": f"{size.cpu:g}",
        },
        volumes=[volume for volume, _ in found],
    )


def run_folder(settings: Settings, workspace_id: str) -> Path:
    return settings.workspaces_run / workspace_id


def picture(version: t.Version) -> Image:
    """The image of a version that was pushed."""
    if version.digest is None or version.config_digest is None:
        raise Conflict("This version has no image yet.", code="version_not_saved")
    return Image(repository=version.repository, digest=version.digest, config_digest=version.config_digest)


# The spawn page


def locked(have: tuple[t.Environment, t.Version] | None) -> str:
    """Why the environment cannot be chosen; empty when it can."""
    if have is None:
        return ""
    return f"This workspace runs {wire.name(*have)}. To use another environment, open it as a workspace of its own."
