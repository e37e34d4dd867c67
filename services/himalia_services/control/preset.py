"""The environments an operator offers: registered, version by version, from what the image builder left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia_services.control import environment as environments
from himalia_services.errors import Unavailable
from himalia_services.model import environment as values
from himalia_services.model import names
from himalia_services.model.caller import Caller
from himalia_services.model.catalog import Catalog, Preset
from himalia_services.model.workload import Image
from himalia_services.settings import Settings
from himalia_services.store import tables as t
from himalia_services.store.db import Database, record
from himalia_services.store.tables import now


async def refresh(db: Database, settings: Settings, catalog: Catalog) -> None:
    """Register every image the builder left that is another one than last time."""
    document = _read(settings.built) or {}
    built = [
        (preset, image) for preset in catalog.presets if (image := values.built(document, preset.image)) is not None
    ]
    if not built:
        return
    async with db.read() as session:
        news = [(preset, image) for preset, image in built if await _digest(session, preset.name) != image.digest]
    if news:
        async with db.write() as session:
            for preset, image in news:
                await register(session, preset, image)


async def register(session: AsyncSession, preset: Preset, image: Image) -> t.Version:
    """The version of a preset that is `image`: the newest one, or a new one."""
    known = await current(session, preset.name)
    if known is not None and known[1].digest == image.digest:
        return known[1]
    environment = await _find(session, preset.name) or await _make(session, preset)
    environment.description = preset.description
    row = environments.numbered(
        environment, status="Saved", repository=image.repository, note="", created_by=names.PLATFORM
    )
    row.digest, row.config_digest, row.saved_at = image.digest, image.config_digest, now()
    session.add(row)
    await session.flush()
    record(session, "version", row, owner=environment, actor=names.PLATFORM)
    return row


async def current(session: AsyncSession, name: str) -> tuple[t.Environment, t.Version] | None:
    """A preset and its newest version; None before it was built once."""
    environment = await _find(session, name)
    if environment is None:
        return None
    row = await session.scalar(
        select(t.Version)
        .where(t.Version.environment_id == environment.id, t.Version.status == "Saved", t.Version.deleted_at.is_(None))
        .order_by(t.Version.number.desc())
        .limit(1)
    )
    return (environment, row) if row is not None else None


async def default(session: AsyncSession, settings: Settings, catalog: Catalog) -> tuple[t.Environment, t.Version]:
    """What a workspace starts from when nobody says otherwise; Unavailable, with how far it is, while that is being built."""
    found = await current(session, catalog.default_preset.name)
    if found is None:
        raise building(settings)
    return found


async def resolve(
    session: AsyncSession, settings: Settings, catalog: Catalog, caller: Caller, text: str
) -> tuple[t.Environment, t.Version]:
    """The Saved version that `text` names; Unavailable when it is a preset that is still being built."""
    for preset in catalog.presets:
        if text.strip() == str(names.Ref(names.PLATFORM, preset.name)):
            found = await current(session, preset.name)
            if found is None:
                raise building(settings)
            return found
    return await environments.resolve(session, caller, text)


def building(settings: Settings) -> Unavailable:
    progress = _read(settings.progress) or {}
    return Unavailable(values.building(progress), code="image_building", progress=dict(progress))


async def _digest(session: AsyncSession, name: str) -> str | None:
    found = await current(session, name)
    return found[1].digest if found is not None else None


async def _find(session: AsyncSession, name: str) -> t.Environment | None:
    e = t.Environment
    return await session.scalar(
        select(e).where(e.owner == names.PLATFORM, e.name == name, e.hidden.is_(False), e.deleted_at.is_(None))
    )


async def _make(session: AsyncSession, preset: Preset) -> t.Environment:
    platform = await session.scalar(
        select(t.Person).where(t.Person.name == names.PLATFORM, t.Person.hub_created == names.PLATFORM)
    )
    if platform is None:
        platform = t.Person(id=names.fresh("p"), name=names.PLATFORM, hub_created=names.PLATFORM)
        session.add(platform)
        await session.flush()
    environment = t.Environment(
        id=names.fresh("env"),
        owner_id=platform.id,
        owner=platform.name,
        name=preset.name,
        visibility="everyone",
        people=[],
        next_number=1,
    )
    session.add(environment)
    await session.flush()
    return environment


def _read(file: Path) -> Mapping[str, Any] | None:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError):
        return None  # not there yet, or being written
    return document if isinstance(document, dict) else None
