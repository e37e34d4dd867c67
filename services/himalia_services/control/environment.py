"""The verbs on environments: find, save, share, delete."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia import schema
from himalia_services.control import rights
from himalia_services.errors import Conflict, Forbidden, Invalid, NotFound
from himalia_services.model import environment as values
from himalia_services.model import names
from himalia_services.model.caller import Caller
from himalia_services.store import tables as t
from himalia_services.store.db import record
from himalia_services.store.tables import now

TEXT_LONGEST = 4000
PEOPLE_MOST = 500

# Find


async def find(session: AsyncSession, caller: Caller, owner: str, name: str) -> t.Environment:
    """The environment people call `owner/name`, when the caller may use it."""
    rows = await session.scalars(
        select(t.Environment)
        .join(t.Person, t.Person.id == t.Environment.owner_id)
        .where(
            t.Environment.owner == owner,
            t.Environment.name == name,
            t.Environment.deleted_at.is_(None),
            t.Environment.hidden.is_(False),
        )
        .order_by(t.Person.created_at.desc())
    )
    # a name given again has two owners: the caller's own comes first, then the newest person's
    usable = sorted((row for row in rows if rights.may_use(caller, row)), key=lambda row: not rights.mine(caller, row))
    if not usable:
        raise NotFound(
            f"There is no environment {owner}/{name}, or it is not shared with you.", code="environment_not_found"
        )
    return usable[0]


async def version(session: AsyncSession, environment: t.Environment, number: int) -> t.Version:
    row = await session.scalar(
        select(t.Version).where(
            t.Version.environment_id == environment.id, t.Version.number == number, t.Version.deleted_at.is_(None)
        )
    )
    if row is None:
        raise NotFound(
            f"{environment.owner}/{environment.name} has no version {number}.",
            code="version_not_found",
            link=path(environment),
        )
    return row


async def resolve(session: AsyncSession, caller: Caller, text: str) -> tuple[t.Environment, t.Version]:
    """The Saved version that `owner/name`, `owner/name:3` or a digest names, when the caller may use it."""
    if names.DIGEST.fullmatch(text.strip()):
        return await _by_digest(session, caller, text.strip())
    ref = names.ref(text)
    environment = await find(session, caller, ref.owner, ref.name)
    if ref.number is None:
        return environment, await newest(session, environment)
    row = await version(session, environment, ref.number)
    if row.status != "Saved":
        raise Conflict(
            f"{ref} is not saved: it is {row.status}.", code="version_not_saved", link=path(environment, row)
        )
    return environment, row


async def _by_digest(session: AsyncSession, caller: Caller, digest: str) -> tuple[t.Environment, t.Version]:
    rows = await session.execute(
        select(t.Environment, t.Version)
        .join(t.Version, t.Version.environment_id == t.Environment.id)
        .where(t.Version.digest == digest, t.Version.status == "Saved", t.Version.deleted_at.is_(None))
        .order_by(t.Version.created_at)
    )
    for environment, row in rows:
        if rights.may_use(caller, environment):
            return environment, row
    raise NotFound(
        f"There is no saved environment with the digest {digest}, or it is not shared with you.",
        code="environment_not_found",
    )


async def newest(session: AsyncSession, environment: t.Environment) -> t.Version:
    """The newest Saved version."""
    row = await session.scalar(
        select(t.Version)
        .where(t.Version.environment_id == environment.id, t.Version.status == "Saved", t.Version.deleted_at.is_(None))
        .order_by(t.Version.number.desc())
        .limit(1)
    )
    if row is None:
        raise Conflict(
            f"{environment.owner}/{environment.name} has no saved version yet.",
            code="version_not_saved",
            link=path(environment),
        )
    return row


def path(environment: t.Environment, row: t.Version | None = None) -> str:
    """Where the API has it."""
    base = f"/environments/{environment.owner}/{environment.name}"
    return base if row is None else f"{base}/versions/{row.number}"


# Save


async def save(session: AsyncSession, caller: Caller, workspace: t.Workspace, request: schema.SaveRequest) -> t.Version:
    """Begin a save of a workspace as the next version of its owner's environment of that name."""
    name = names.environment_name(request.name)
    if len(request.note) > TEXT_LONGEST:
        raise Invalid(f"A note has at most {TEXT_LONGEST} characters.", code="note_too_long")
    if workspace.owner == names.PLATFORM:
        raise Invalid(
            f"The name {names.PLATFORM} is the platform's own, so nothing can be saved under it.",
            code="environment_name",
        )
    await _refuse_second(session, workspace)
    environment = await _own(session, workspace, name)
    if environment is None:
        environment = _environment(workspace, name)
        session.add(environment)
        await session.flush()
        _note(session, caller, environment, "Made by a save.", status="Created")
    return await _begin(session, environment, workspace, note=request.note, actor=caller.name)


async def preserve(session: AsyncSession, workspace: t.Workspace, actor: str) -> t.Version:
    """Begin a private save of a workspace, for a container that has to be made anew; the one under way is the answer too."""
    name = hidden_name(workspace)
    environment = await _own(session, workspace, name, hidden=True)
    if environment is None:
        environment = _environment(workspace, name)
        environment.hidden = True
        session.add(environment)
        await session.flush()
    for row in await _live(session, workspace):
        if row.environment_id == environment.id:
            return row
    return await _begin(session, environment, workspace, note="", actor=actor)


def hidden_name(workspace: t.Workspace) -> str:
    return f"workspace-{workspace.id}"


async def preserved(session: AsyncSession, workspace: t.Workspace) -> t.Version | None:
    """The newest private save of a workspace."""
    return await session.scalar(
        select(t.Version)
        .join(t.Environment, t.Environment.id == t.Version.environment_id)
        .where(
            t.Environment.hidden.is_(True),
            t.Version.workspace_id == workspace.id,
            t.Version.status == "Saved",
            t.Version.deleted_at.is_(None),
        )
        .order_by(t.Version.number.desc())
        .limit(1)
    )


async def prune(session: AsyncSession, workspace: t.Workspace) -> None:
    """Delete a workspace's private saves but the newest and those in use."""
    keep = await preserved(session, workspace)
    rows = await session.scalars(
        select(t.Version)
        .join(t.Environment, t.Environment.id == t.Version.environment_id)
        .where(
            t.Environment.hidden.is_(True),
            t.Version.workspace_id == workspace.id,
            t.Version.status.in_(("Saved", "Failed")),
            t.Version.deleted_at.is_(None),
        )
    )
    for row in rows:
        if row is not keep and not await _users(session, row):
            row.deleted_at = row.wake_at = now()


async def _own(
    session: AsyncSession, workspace: t.Workspace, name: str, *, hidden: bool = False
) -> t.Environment | None:
    e = t.Environment
    return await session.scalar(
        select(e).where(e.owner_id == workspace.owner_id, e.name == name, e.hidden.is_(hidden), e.deleted_at.is_(None))
    )


def _environment(workspace: t.Workspace, name: str) -> t.Environment:
    return t.Environment(
        id=names.fresh("env"),
        owner_id=workspace.owner_id,
        owner=workspace.owner,
        name=name,
        visibility="private",
        people=[],
        hidden=False,
        next_number=1,
    )


async def _live(session: AsyncSession, workspace: t.Workspace) -> Sequence[t.Version]:
    found = await session.scalars(
        select(t.Version)
        .where(
            t.Version.workspace_id == workspace.id,
            t.Version.status.in_(schema.LIVE_VERSION_PHASES),
            t.Version.deleted_at.is_(None),
        )
        .order_by(t.Version.created_at)
    )
    return found.all()


async def _refuse_second(session: AsyncSession, workspace: t.Workspace) -> None:
    for row in await _live(session, workspace):
        environment = await session.get_one(t.Environment, row.environment_id)
        if environment.hidden:
            raise Conflict(
                "This workspace is just being kept, to be made anew with other folders. Save it once it runs again.",
                code="save_running",
                link=f"/workspaces/{workspace.id}",
            )
        raise Conflict(
            f"{names.Ref(environment.owner, environment.name, row.number)} is just being saved from this workspace. Wait until it is done.",
            code="save_running",
            link=path(environment, row),
        )


async def _begin(
    session: AsyncSession, environment: t.Environment, workspace: t.Workspace, *, note: str, actor: str
) -> t.Version:
    parent = workspace.preserved_version_id or workspace.version_id
    if parent is None:
        raise Conflict(
            "This workspace has not been started yet, so there is nothing to save. Start it first.",
            code="nothing_to_save",
        )
    row = numbered(
        environment,
        status="Committing",
        repository=names.repository(environment.owner_id, environment.id),
        note=note,
        created_by=actor,
    )
    row.parent_id, row.workspace_id = parent, workspace.id
    session.add(row)
    await session.flush()
    record(session, "version", row, owner=environment, actor=actor)
    return row


def numbered(environment: t.Environment, *, status: str, repository: str, note: str, created_by: str) -> t.Version:
    """The next version; its number is never given again."""
    row = t.Version(
        id=names.fresh("ver"),
        environment_id=environment.id,
        number=environment.next_number,
        status=status,
        reason_code="",
        reason_message="",
        repository=repository,
        note=note,
        created_by=created_by,
        attempt=0,
        purged=False,
        packages={},
        warnings=[],
    )
    environment.next_number += 1
    return row


# Share


async def share(
    session: AsyncSession, caller: Caller, environment: t.Environment, request: schema.ShareRequest
) -> None:
    """Set who else may use it. It holds from the next start on: rights are asked at every plan and every job."""
    _refuse_others(caller, environment, "share")
    if request.visibility == "group":
        environment.group = _group(caller, environment, request.group)
    else:
        environment.group = None
    environment.people = _people(request.people, environment) if request.visibility == "people" else []
    environment.visibility = request.visibility
    if request.description is not None:
        if len(request.description) > TEXT_LONGEST:
            raise Invalid(f"A description has at most {TEXT_LONGEST} characters.", code="description_too_long")
        environment.description = request.description
    _note(session, caller, environment, _shared_with(environment))


def _group(caller: Caller, environment: t.Environment, group: str | None) -> str:
    if not group:
        raise Invalid("Say with which group to share.", code="group_missing")
    if group not in caller.groups and not (caller.admin and not rights.mine(caller, environment)):
        raise Invalid(f"You are not in the group {group[:80]}, so you cannot share with it.", code="not_in_group")
    return group


def _people(people: Sequence[str], environment: t.Environment) -> list[str]:
    chosen = sorted({names.person_name(name) for name in people} - {environment.owner})
    if not chosen:
        raise Invalid("Say with whom to share: the names people log in with.", code="people_missing")
    if len(chosen) > PEOPLE_MOST:
        raise Invalid(f"At most {PEOPLE_MOST} people can be named; share with a group instead.", code="too_many_people")
    return chosen


def _shared_with(environment: t.Environment) -> str:
    match environment.visibility:
        case "group":
            return f"Shared with the group {environment.group}."
        case "people":
            return f"Shared with {values.names(environment.people)}."
        case "everyone":
            return "Shared with everyone."
        case _:
            return "Not shared."


def _refuse_others(caller: Caller, environment: t.Environment, verb: str) -> None:
    ref = f"{environment.owner}/{environment.name}"
    if rights.preset(environment):
        raise Forbidden(f"{ref} is offered by this installation; nobody can {verb} it.", code="preset")
    if not rights.owns(caller, environment):
        raise Forbidden(f"{ref} belongs to {environment.owner}; only they can {verb} it.", code="not_yours")


def _note(session: AsyncSession, caller: Caller, environment: t.Environment, sentence: str, status: str = "") -> None:
    session.add(
        t.Event(
            actor=caller.name,
            target_kind="environment",
            target=environment.id,
            owner_id=environment.owner_id,
            owner=environment.owner,
            group=environment.group,
            status=status,
            reason_message=sentence,
        )
    )


# Delete


async def delete(session: AsyncSession, caller: Caller, environment: t.Environment) -> None:
    """Delete an environment with all its versions, unless something uses one of them."""
    _refuse_others(caller, environment, "delete")
    rows = await session.scalars(
        select(t.Version).where(t.Version.environment_id == environment.id, t.Version.deleted_at.is_(None))
    )
    for row in rows.all():
        await _remove(session, environment, row)
    environment.deleted_at = now()
    _note(session, caller, environment, "Deleted with all its versions.", status="Deleted")


async def delete_version(session: AsyncSession, caller: Caller, environment: t.Environment, row: t.Version) -> None:
    _refuse_others(caller, environment, "delete")
    await _remove(session, environment, row)
    _note(session, caller, environment, f"Version {row.number} was deleted.")


async def _remove(session: AsyncSession, environment: t.Environment, row: t.Version) -> None:
    ref = names.Ref(environment.owner, environment.name, row.number)
    if row.status in schema.LIVE_VERSION_PHASES:
        raise Conflict(
            f"{ref} is just being saved. Wait until it is done.", code="save_running", link=path(environment, row)
        )
    users = await _users(session, row)
    if users:
        sentences, links = zip(*users, strict=True)
        raise Conflict(
            f"{ref} is used by {values.names(sentences)}. Delete or stop that first.",
            code="in_use",
            link=links[0],
            used_by=list(links),
        )
    row.deleted_at = row.wake_at = now()


async def _users(session: AsyncSession, row: t.Version) -> list[tuple[str, str]]:
    """Who needs this version: what to say and where it is. A child does not: its manifest names all its layers itself."""
    w, v, j = t.Workspace, t.Version, t.Job
    found: list[tuple[str, str]] = []
    for workspace in await session.scalars(
        select(w).where(
            w.deleted_at.is_(None),
            or_(w.version_id == row.id, w.preserved_version_id == row.id, w.wanted_version_id == row.id),
        )
    ):
        title = f"{workspace.owner}'s workspace" + (f" {workspace.name}" if workspace.name else "")
        found.append((title, f"/workspaces/{workspace.id}"))
    for job in await session.scalars(select(j).where(j.version_id == row.id, j.status.in_(schema.LIVE_JOB_STATES))):
        found.append((f"{job.owner}'s job {job.display_name or job.id}", f"/jobs/{job.id}"))
    saves = select(v, t.Environment).join(t.Environment, t.Environment.id == v.environment_id)
    for child, home in await session.execute(
        saves.where(v.parent_id == row.id, v.status.in_(schema.LIVE_VERSION_PHASES))
    ):
        link = f"/workspaces/{child.workspace_id}" if home.hidden else path(home, child)
        found.append(
            (
                f"the running save of {names.Ref(home.owner, home.name, child.number)}"
                if not home.hidden
                else "a running save",
                link,
            )
        )
    return found
