"""The verbs on workspaces. They write what is wanted; the reconciler asks the hub."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia import schema
from himalia_services.control import environment as environments
from himalia_services.control import plan, preset, rights, wire
from himalia_services.errors import Conflict, Invalid, NotFound
from himalia_services.model import names
from himalia_services.model.caller import Caller
from himalia_services.model.catalog import Catalog
from himalia_services.model.phases import WORKSPACE
from himalia_services.settings import Settings
from himalia_services.store import tables as t
from himalia_services.store.db import move, record
from himalia_services.store.tables import now

DISPLAY_LONGEST = 255


async def find(session: AsyncSession, caller: Caller, id: str) -> t.Workspace:
    """A workspace of the caller's; admins find everybody's."""
    row = await session.get(t.Workspace, id)
    if row is None or row.deleted_at is not None or not rights.owns(caller, row):
        raise NotFound(f"There is no workspace {id[:40]}.", code="workspace_not_found")
    return row


async def create(
    session: AsyncSession, settings: Settings, catalog: Catalog, caller: Caller, request: schema.WorkspaceRequest
) -> t.Workspace:
    """Make a workspace, the default one when it has no name, and start it unless told otherwise."""
    name = names.server_name(request.name) if request.name else ""
    person = await session.get_one(t.Person, caller.person_id)
    there = await plan.find(session, person, name)
    if there is not None:
        title = f"a workspace {name}" if name else "a default workspace"
        raise Conflict(
            f"You have {title} already. Start that, or choose another name.",
            code="workspace_exists",
            link=f"/workspaces/{there.id}",
        )
    if len(request.display_name) > DISPLAY_LONGEST:
        raise Invalid(f"A display name has at most {DISPLAY_LONGEST} characters.", code="display_name_too_long")
    row = plan.fresh(person, name, request.display_name or name, catalog.machine(request.machine).name, "Stopped")
    if request.environment:
        row.wanted_version_id = (await preset.resolve(session, settings, catalog, caller, request.environment))[1].id
    if request.start:
        row.status, row.wanted = "Creating", "start"
    session.add(row)
    await session.flush()
    record(session, "workspace", row, owner=row, actor=caller.name)
    return row


async def start(
    session: AsyncSession,
    settings: Settings,
    catalog: Catalog,
    caller: Caller,
    row: t.Workspace,
    request: schema.StartRequest,
) -> None:
    """Start it, with another machine or, before its first start, another environment. One that runs goes on as it is."""
    _refuse_deleting(row)
    if request.environment:
        await _want(
            session,
            row,
            request.environment,
            await preset.resolve(session, settings, catalog, caller, request.environment),
        )
    if request.machine:
        row.machine = catalog.machine(request.machine).name
    if row.status in ("Running", "Starting", "Creating") and row.wanted != "stop":
        return
    row.wanted, row.wake_at = "start", now()
    move(session, "workspace", row, "Starting", owner=row, actor=caller.name)


async def _want(session: AsyncSession, row: t.Workspace, asked: str, found: tuple[t.Environment, t.Version]) -> None:
    environment, version = found
    if row.version_id is None or row.started_at is None:
        row.wanted_version_id = version.id
        return
    have = await session.get_one(t.Version, row.version_id)
    home = await session.get_one(t.Environment, have.environment_id)
    if have.id != version.id and (home.id != environment.id or asked != wire.name(environment)):
        raise Conflict(
            f"This workspace runs {wire.name(home, have)}. Save it, or open {wire.name(environment, version)} as a workspace of its own.",
            code="other_environment",
            link=f"/workspaces/{row.id}",
        )


def stop(session: AsyncSession, caller: Caller, row: t.Workspace) -> None:
    """Stop it; its container and what was installed there stay. One that is stopped stays so."""
    _refuse_deleting(row)
    if row.status in ("Stopped", "Failed"):
        return
    if row.status == "Creating":  # the hub may have been asked to start it by now, so it is asked to stop it as well
        row.wanted, row.wake_at = "stop", now()
        move(session, "workspace", row, "Stopped", owner=row, actor=caller.name)
        return
    row.wanted, row.wake_at = "stop", now()
    if "Stopping" in WORKSPACE[row.status]:
        move(session, "workspace", row, "Stopping", owner=row, actor=caller.name)


async def delete(session: AsyncSession, caller: Caller, row: t.Workspace) -> None:
    """Delete a named workspace with its container. Home and group folders stay."""
    if not row.name:
        raise Conflict(
            "The default workspace cannot be deleted. Stop it; to begin anew, open another environment as a workspace of its own.",
            code="default_workspace",
        )
    if row.status == "Deleting":
        return
    live = await session.scalar(
        select(t.Version).where(
            t.Version.workspace_id == row.id,
            t.Version.status.in_(schema.LIVE_VERSION_PHASES),
            t.Version.deleted_at.is_(None),
        )
    )
    if live is not None:
        home = await session.get_one(t.Environment, live.environment_id)
        raise Conflict(
            "This workspace is just being saved. Delete it when that is done.",
            code="save_running",
            link=f"/workspaces/{row.id}" if home.hidden else environments.path(home, live),
        )
    row.wanted, row.wake_at = "delete", now()
    move(session, "workspace", row, "Deleting", owner=row, actor=caller.name)


def _refuse_deleting(row: t.Workspace) -> None:
    if row.status == "Deleting":
        raise Conflict("This workspace is being deleted.", code="deleting")


# What the hub says


async def phase(session: AsyncSession, row: t.Workspace, status: str, code: str, message: str) -> None:
    """Take over what the spawner sees. A word that comes too late for the row's state is dropped."""
    if status not in WORKSPACE:
        raise Invalid(f"“{status[:40]}” is no status of a workspace.", code="status")
    if row.deleted_at is not None:
        return
    if status == "Deleting":
        await gone(session, row, actor=row.owner)
        return
    enter(session, row, status, code, message, actor=row.owner)


def enter(
    session: AsyncSession, row: t.Workspace, status: str, code: str = "", message: str = "", *, actor: str
) -> None:
    if status != row.status and status not in WORKSPACE[row.status]:
        return
    if status == "Running" and row.status != "Running":
        row.started_at = now()
    if status in ("Running", "Failed"):
        row.wanted_version_id = None  # it was used, or refused: the next start does not ask for it again by itself
    move(session, "workspace", row, status, owner=row, actor=actor, reason_code=code, reason_message=message)


async def gone(session: AsyncSession, row: t.Workspace, actor: str) -> None:
    """The hub has removed the server and its container."""
    if row.status != "Deleting":
        move(session, "workspace", row, "Deleting", owner=row, actor=actor)
    row.wanted, row.deleted_at = "", now()
    hidden = select(t.Environment.id).where(t.Environment.hidden.is_(True))
    for version in await session.scalars(
        select(t.Version).where(
            t.Version.workspace_id == row.id, t.Version.environment_id.in_(hidden), t.Version.deleted_at.is_(None)
        )
    ):
        version.deleted_at = version.wake_at = now()


async def adopted(session: AsyncSession, row: t.Workspace) -> None:
    """The container was made anew from the newest private save; older ones may go."""
    kept = await environments.preserved(session, row)
    if kept is None:
        raise Conflict("This workspace has no private save to have been made from.", code="not_preserved")
    row.preserved_version_id = kept.id
    await environments.prune(session, row)
