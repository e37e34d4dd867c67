"""The schema's history ends at the models, and a database from the future is left alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from himalia_services.store import migrate
from himalia_services.store.db import Database
from himalia_services.store.tables import Base


def url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    with warnings.catch_warnings():
        # workspaces name versions and versions workspaces; only the order of creation is lost by that
        warnings.filterwarnings("ignore", message="Cannot correctly sort tables")
        return compare_metadata(context, Base.metadata)


async def test_the_newest_schema_is_what_the_models_say(tmp_path: Path) -> None:
    await migrate.upgrade(url(tmp_path / "db"))
    db = Database(url(tmp_path / "db"))
    async with db.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await db.aclose()


async def test_a_model_without_a_migration_would_be_noticed(tmp_path: Path) -> None:
    await migrate.upgrade(url(tmp_path / "db"))
    db = Database(url(tmp_path / "db"))
    async with db.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE people DROP COLUMN created_at"))
        assert await connection.run_sync(differences) != []
    await db.aclose()


async def test_an_upgrade_of_the_newest_schema_changes_nothing(tmp_path: Path) -> None:
    await migrate.upgrade(url(tmp_path / "db"))
    before = (tmp_path / "db").read_bytes()
    await migrate.upgrade(url(tmp_path / "db"))
    assert (tmp_path / "db").read_bytes() == before


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    await migrate.upgrade(url(tmp_path / "db"))
    db = Database(url(tmp_path / "db"))
    async with db.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999_future'"))
    await db.aclose()
    before = (tmp_path / "db").read_bytes()
    with pytest.raises(migrate.NewerSchema, match="9999_future"):
        await migrate.upgrade(url(tmp_path / "db"))
    assert (tmp_path / "db").read_bytes() == before


def test_there_is_one_newest_revision() -> None:
    assert migrate.head()
