"""Makes workspaces true: asks the hub for what is wanted, and takes over what it says of its servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import and_, select

from himalia_services.control import wire
from himalia_services.control import workspace as workspaces
from himalia_services.control.person import canonical
from himalia_services.errors import HimaliaError, HubUnavailable
from himalia_services.failpoint import failpoint
from himalia_services.hub import User
from himalia_services.model import names
from himalia_services.model.workspace import Seen, conclude
from himalia_services.reconcile import due
from himalia_services.store import lease
from himalia_services.store import tables as t

if TYPE_CHECKING:
    from himalia_services.parts import Parts

log = structlog.get_logger(__name__)

ACTOR = names.PLATFORM
#: The spawner says what happens as it happens; looking is for what was missed.
LOOK_LIVE = timedelta(seconds=10)
LOOK_IDLE = timedelta(seconds=60)
LOOK_DELETED = timedelta(seconds=2)
SYNC_MOST = 500
_IDLE = ("Stopped", "Failed")
_REASONS = frozenset({"image_building", "other_environment", "server_failed"})

_ASKED = and_(t.Workspace.wanted != "", t.Workspace.deleted_at.is_(None))
_QUIET = and_(t.Workspace.wanted == "", t.Workspace.deleted_at.is_(None))


async def step(parts: Parts, holder: str) -> None:
    """One pass: what people asked for, and a look at the hub for the rest."""
    async with asyncio.TaskGroup() as group:
        group.create_task(due.each(parts.db, t.Workspace, _ASKED, holder, partial(_act, parts, holder)))
        group.create_task(_sync(parts, holder))


# What people asked for


async def _act(parts: Parts, holder: str, id: str) -> None:
    async with parts.db.read() as session:
        row = await session.get_one(t.Workspace, id)
        person = await session.get_one(t.Person, row.owner_id)
        options = await _options(session, row)
    user = await parts.hub.user(row.owner)
    here = user is not None and _same(person, user)
    failpoint(f"workspace.{row.wanted}")
    try:
        match row.wanted:
            case "start" if here:
                await parts.hub.start(row.owner, row.name, display_name=row.display_name, user_options=options)
            case "start":
                await _refused(parts, holder, id, "server_failed", f"The hub does not know {row.owner} any more.")
                return
            case "stop" if here:
                await parts.hub.stop(row.owner, row.name)
            case "delete":
                await _delete(parts, holder, row, here)
                return
    except HubUnavailable:
        raise
    except HimaliaError as error:
        await _refused(parts, holder, id, error.reason, error.detail)
        return
    failpoint(f"workspace.{row.wanted}.asked")
    async with parts.db.write() as session:
        held = await lease.held(session, t.Workspace, id, holder)
        if held is None:
            return
        if held.wanted == row.wanted:
            held.wanted = ""
        lease.release(held)


async def _options(session: Any, row: t.Workspace) -> dict[str, str]:
    """The whole choice each time: the hub repeats an old one when it gets none."""
    chosen = {"machine": row.machine}
    version_id = row.wanted_version_id or row.version_id
    if version_id is not None:
        version = await session.get_one(t.Version, version_id)
        chosen["environment"] = wire.name(await session.get_one(t.Environment, version.environment_id), version)
    return chosen


def _same(person: t.Person, user: User) -> bool:
    """Whether the hub's user is this very person: a name given again must not reach the old one's rows, nor they its servers."""
    return not person.hub_created or person.hub_created == canonical(user.created)


async def _refused(parts: Parts, holder: str, id: str, code: str, sentence: str) -> None:
    async with parts.db.write() as session:
        row = await lease.held(session, t.Workspace, id, holder)
        if row is None:
            return
        if row.wanted == "delete":  # nothing follows Deleting: it is asked again until it is done
            log.warning("hub_refused", workspace=id, asked="delete", sentence=sentence)
            lease.release(row, again_in=LOOK_LIVE)
            return
        asked, row.wanted = row.wanted, ""
        lease.release(row)
        if asked == "start" and row.status != "Failed":  # the spawner's own word says more
            workspaces.enter(
                session, row, "Failed", code if code in _REASONS else "server_failed", sentence, actor=ACTOR
            )
        elif asked != "start":
            log.warning("hub_refused", workspace=id, asked=asked, sentence=sentence)


async def _delete(parts: Parts, holder: str, row: t.Workspace, here: bool) -> None:
    if here:
        await parts.hub.delete(row.owner, row.name)
        failpoint("workspace.delete.asked")
        here = await parts.hub.server(row.owner, row.name) is not None
    async with parts.db.write() as session:
        held = await lease.held(session, t.Workspace, row.id, holder)
        if held is None:
            return
        lease.release(held, again_in=LOOK_DELETED)
        if not here and held.deleted_at is None:
            await workspaces.gone(session, held, actor=ACTOR)


# What the hub says


async def _sync(parts: Parts, holder: str) -> None:
    ids = await due.claim(parts.db, t.Workspace, _QUIET, holder, SYNC_MOST)
    if not ids:
        return
    async with parts.db.read() as session:
        owned = select(t.Workspace, t.Person).join(t.Person, t.Person.id == t.Workspace.owner_id)
        found = [(row, person) for row, person in await session.execute(owned.where(t.Workspace.id.in_(ids)))]
    before = {row.id: row.status for row, _ in found}
    told: Told | None = None
    try:
        users = {user.name: user for user in await parts.hub.users()}
        told = Told(users, await _lost(parts, found, users))
    except HubUnavailable as error:
        log.warning("not_answering", error=error.detail)
    finally:
        await _settle(parts, holder, ids, before, told)


@dataclass(frozen=True)
class Told:
    """The hub's answer: everybody with their servers, and the workspaces of ours that it has nothing of."""

    users: Mapping[str, User]
    lost: frozenset[str]


async def _lost(
    parts: Parts, found: Sequence[tuple[t.Workspace, t.Person]], users: Mapping[str, User]
) -> frozenset[str]:
    """Whose deletion at the hub was never told to us."""
    missing = [(row, person) for row, person in found if not _is_there(users.get(row.owner), person, row)]
    # asked by name once more: a list that is read page by page may pass over somebody
    return frozenset([row.id for row, person in missing if not _is_there(await parts.hub.user(row.owner), person, row)])


def _is_there(user: User | None, person: t.Person, row: t.Workspace) -> bool:
    """The hub knows a default server, and one that was only made here, no sooner than it is started."""
    if user is None or not _same(person, user):
        return False
    return not row.name or row.version_id is None or row.name in user.servers


async def _settle(parts: Parts, holder: str, ids: Sequence[str], before: Mapping[str, str], told: Told | None) -> None:
    async with parts.db.write() as session:
        for id in ids:
            row = await lease.held(session, t.Workspace, id, holder)
            if row is None:
                continue
            # what somebody said since we asked is newer than the answer
            if told is not None and row.wanted == "" and row.deleted_at is None and row.status == before.get(id):
                await _take(session, row, told)
            lease.release(row, again_in=LOOK_IDLE if row.status in _IDLE else LOOK_LIVE)


async def _take(session: Any, row: t.Workspace, told: Told) -> None:
    if row.id in told.lost:
        await workspaces.gone(session, row, actor=ACTOR)
        return
    person = await session.get_one(t.Person, row.owner_id)
    change = conclude(row.status, _seen(told.users.get(row.owner), person, row.name))
    if change is not None:
        workspaces.enter(session, row, change.status, change.reason_code, change.reason_message, actor=ACTOR)


def _seen(user: User | None, person: t.Person, name: str) -> Seen | None:
    if user is None or not _same(person, user):
        return None
    server = user.servers.get(name)
    return Seen(server.ready, server.pending) if server is not None else None
