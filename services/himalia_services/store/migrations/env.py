"""How alembic reaches the database: by the async driver of its URL. Batch mode, since SQLite alters tables by making them anew."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from himalia_services.store.tables import Base, Time

URL = context.config.get_main_option("sqlalchemy.url") or ""


def render(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """A migration stands for itself: it names no class of ours, which may change later."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Time) else False


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, render_item=render)
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    engine = create_async_engine(URL, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(url=URL, target_metadata=Base.metadata, literal_binds=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(online())
