"""The schema's history: brings a database to the newest version, and refuses one that is newer than this program."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

MIGRATIONS = Path(__file__).parent / "migrations"


class NewerSchema(Exception):
    """The database was written by a later release."""


def config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def head() -> str:
    """The newest revision this program knows."""
    revision = ScriptDirectory.from_config(config("sqlite://")).get_current_head()
    assert revision is not None
    return revision


async def upgrade(url: str) -> None:
    """Bring the database to the newest schema; NewerSchema when it is beyond it. Nothing is changed then."""
    revision = await _revision(url)
    known = {script.revision for script in ScriptDirectory.from_config(config(url)).walk_revisions()}
    if revision is not None and revision not in known:
        raise NewerSchema(
            f"The database has schema {revision}, which this release does not know: a newer one has used it. "
            "Install that release again, or put back a copy of the database from before."
        )
    if revision != head():
        await asyncio.to_thread(command.upgrade, config(url), "head")


async def _revision(url: str) -> str | None:
    engine: AsyncEngine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_current)
    finally:
        await engine.dispose()


def _current(connection: Connection) -> Any:
    return MigrationContext.configure(connection).get_current_revision()
