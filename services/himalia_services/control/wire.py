"""Rows as the objects the API gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from jupyterhub.utils import subdomain_hook_idna
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia import schema
from himalia_services.control import rights
from himalia_services.model import environment as values
from himalia_services.model import names
from himalia_services.model.caller import Caller
from himalia_services.settings import Settings
from himalia_services.store import tables as t

_PROGRESS = {
    "Committing": "Reading what changed",
    "Pushing": "Storing the changes",
    "Verifying": "Trying it out: a start without network and home",
}


async def histories(session: AsyncSession, kind: str, ids: Iterable[str]) -> Mapping[str, list[schema.StatusEntry]]:
    """Each object's stretches of status, oldest first, from its events."""
    rows = await session.execute(
        select(t.Event.target, t.Event.status, t.Event.reason_code, t.Event.reason_message, t.Event.time)
        .where(t.Event.target_kind == kind, t.Event.target.in_(list(ids)), t.Event.status != "")
        .order_by(t.Event.id)
    )
    events: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        events[row.target].append(row)
    return {target: _stretches(found) for target, found in events.items()}


def _stretches(events: Sequence[Any]) -> list[schema.StatusEntry]:
    ends = [e.time for e in events[1:]] + [None]
    return [
        schema.StatusEntry(
            status=e.status, reason_code=e.reason_code, reason_message=e.reason_message, start_time=e.time, end_time=end
        )
        for e, end in zip(events, ends, strict=True)
    ]


def name(environment: t.Environment, version: t.Version | None = None) -> str:
    """`ada/vision` or `ada/vision:3`."""
    return str(names.Ref(environment.owner, environment.name, version.number if version else None))


async def versions(session: AsyncSession, rows: Sequence[t.Version]) -> list[schema.Version]:
    parents = await _by_id(session, t.Version, (v.parent_id for v in rows))
    environments = await _by_id(session, t.Environment, [v.environment_id for v in (*rows, *parents.values())])
    history = await histories(session, "version", [v.id for v in rows])
    return [_version(v, environments, parents, history.get(v.id, [])) for v in rows]


async def version(session: AsyncSession, row: t.Version) -> schema.Version:
    return (await versions(session, [row]))[0]


def _version(
    row: t.Version,
    environments: Mapping[str, t.Environment],
    parents: Mapping[str, t.Version],
    history: list[schema.StatusEntry],
) -> schema.Version:
    home = environments[row.environment_id]
    parent = parents.get(row.parent_id or "")
    return schema.Version(
        id=row.id,
        ref=name(home, row),
        owner=home.owner,
        environment=home.name,
        number=row.number,
        phase=row.status,
        reason_code=row.reason_code,
        reason_message=row.reason_message,
        status_history=history,
        digest=row.digest,
        size_bytes=row.size_bytes,
        layers=row.layers,
        parent_ref=name(environments[parent.environment_id], parent) if parent else None,
        parent_digest=parent.digest if parent else None,
        workspace_id=row.workspace_id,
        note=row.note,
        warnings=[str(w) for w in row.warnings],
        created_by=row.created_by,
        created_at=row.created_at,
        saved_at=row.saved_at,
        progress_bytes=row.progress_bytes,
        progress_message=_PROGRESS.get(row.status, ""),
    )


async def environments(
    session: AsyncSession, caller: Caller, rows: Sequence[t.Environment], *, whole: bool = False
) -> list[schema.Environment]:
    """`whole` adds all versions, newest first; `latest` is the newest one that is Saved."""
    found = await session.scalars(
        select(t.Version)
        .where(t.Version.environment_id.in_([e.id for e in rows]), t.Version.deleted_at.is_(None))
        .order_by(t.Version.number.desc())
    )
    every: defaultdict[str, list[t.Version]] = defaultdict(list)
    for row in found:
        every[row.environment_id].append(row)
    wanted = [v for e in rows for v in (every[e.id] if whole else _latest(every[e.id]))]
    shown = {v.id: v for v in await versions(session, wanted)}
    return [_environment(e, caller, every[e.id], shown, whole) for e in rows]


def _latest(versions: Sequence[t.Version]) -> list[t.Version]:
    return [v for v in versions if v.status == "Saved"][:1]


def _environment(
    row: t.Environment, caller: Caller, every: Sequence[t.Version], shown: Mapping[str, schema.Version], whole: bool
) -> schema.Environment:
    mine, preset = rights.mine(caller, row), rights.preset(row)
    latest = next((shown[v.id] for v in _latest(every)), None)
    return schema.Environment(
        ref=name(row),
        owner=row.owner,
        name=row.name,
        description=row.description,
        visibility=row.visibility,  # pyright: ignore[reportArgumentType]  # the column holds these words only
        people=list(row.people) if rights.owns(caller, row) else [],
        group=row.group,
        preset=preset,
        mine=mine,
        runs_as_you=values.runs_as_you(row.owner, mine=mine, preset=preset),
        latest=latest,
        versions=[shown[v.id] for v in every] if whole else [],
        created_at=row.created_at,
    )


async def workspaces(session: AsyncSession, settings: Settings, rows: Sequence[t.Workspace]) -> list[schema.Workspace]:
    made_from = await _by_id(session, t.Version, (w.version_id or w.wanted_version_id for w in rows))
    homes = await _by_id(session, t.Environment, (v.environment_id for v in made_from.values()))
    history = await histories(session, "workspace", [w.id for w in rows])
    snapshots = await _snapshots(session, [w.id for w in rows])
    return [_workspace(w, settings, made_from, homes, snapshots.get(w.id), history.get(w.id, [])) for w in rows]


async def workspace(session: AsyncSession, settings: Settings, row: t.Workspace) -> schema.Workspace:
    return (await workspaces(session, settings, [row]))[0]


async def _snapshots(session: AsyncSession, ids: Sequence[str]) -> Mapping[str, schema.Version]:
    """Each workspace's newest save that people asked for."""
    rows = await session.scalars(
        select(t.Version)
        .join(t.Environment, t.Environment.id == t.Version.environment_id)
        .where(t.Version.workspace_id.in_(ids), t.Environment.hidden.is_(False), t.Version.deleted_at.is_(None))
        .order_by(t.Version.created_at)
    )
    newest = {row.workspace_id: row for row in rows}
    return {shown.workspace_id: shown for shown in await versions(session, list(newest.values())) if shown.workspace_id}


def _workspace(
    row: t.Workspace,
    settings: Settings,
    made_from: Mapping[str, t.Version],
    homes: Mapping[str, t.Environment],
    snapshot: schema.Version | None,
    history: list[schema.StatusEntry],
) -> schema.Workspace:
    version = made_from.get(row.version_id or row.wanted_version_id or "")
    return schema.Workspace(
        id=row.id,
        owner=row.owner,
        name=row.name,
        display_name=row.display_name,
        status=row.status,
        reason_code=row.reason_code,
        reason_message=row.reason_message,
        status_history=history,
        environment=name(homes[version.environment_id], version) if version else None,
        digest=version.digest if version else None,
        machine=row.machine,
        urls=urls(settings, row),
        latest_snapshot=snapshot,
        created_at=row.created_at,
        started_at=row.started_at,
    )


def urls(settings: Settings, row: t.Workspace) -> schema.WorkspaceUrls:
    """Where a browser opens a workspace: on its person's own origin."""
    origin = settings.public_url
    if settings.routing == "subdomain":
        origin = f"http://{subdomain_hook_idna(row.owner, settings.domain, 'user')}:{settings.port}"
    base = f"{origin}/user/{quote(row.owner, safe='@~')}/" + (f"{quote(row.name)}/" if row.name else "")
    return schema.WorkspaceUrls(
        lab=f"{base}lab",
        vscode=f"{base}vscode/",
        terminal=f"{base}lab?himalia=terminal",
        tensorboard=f"{base}tensorboard/",
    )


def packages(row: t.Version) -> schema.Packages:
    def listed(manager: str) -> list[schema.Package]:
        return [
            schema.Package(name=str(name), version=str(version)) for name, version in row.packages.get(manager) or ()
        ]

    return schema.Packages(dpkg=listed("dpkg"), pip=listed("pip"), conda=listed("conda"))


async def _by_id(session: AsyncSession, table: Any, ids: Iterable[str | None]) -> dict[str, Any]:
    wanted = {id for id in ids if id}
    if not wanted:
        return {}
    return {row.id: row for row in await session.scalars(select(table).where(table.id.in_(wanted)))}
