"""Leases: a reconciler claims rows by one UPDATE, the same statement on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from himalia_services.store.tables import now

LEASE = timedelta(seconds=30)


async def claim(
    session: AsyncSession, table: Any, where: ColumnElement[bool], holder: str, limit: int = 20
) -> Sequence[str]:
    """Lease up to `limit` rows that are due and free; returns their ids."""
    due = (
        select(table.id)
        .where(where, table.wake_at <= now(), or_(table.leased_until.is_(None), table.leased_until < now()))
        .order_by(table.wake_at)
        .limit(limit)
    )
    result = await session.execute(
        update(table)
        .where(table.id.in_(due), or_(table.leased_until.is_(None), table.leased_until < now()))
        .values(lease=holder, leased_until=now() + LEASE)
        .returning(table.id)
        .execution_options(synchronize_session=False)
    )
    return result.scalars().all()


async def prolong(session: AsyncSession, table: Any, id: str, holder: str) -> bool:
    """Keep a lease for another term; False when it is somebody else's by now."""
    result = await session.execute(
        update(table)
        .where(table.id == id, table.lease == holder)
        .values(leased_until=now() + LEASE)
        .returning(table.id)
    )
    return result.scalar_one_or_none() is not None


async def held(session: AsyncSession, table: Any, id: str, holder: str) -> Any | None:
    """The row, if `holder` still has its lease; None means: drop the result."""
    row = await session.get(table, id)
    return row if row is not None and row.lease == holder else None


def release(row: Any, *, again_in: timedelta = timedelta()) -> None:
    """Give a row back; it is due again after `again_in`."""
    row.lease, row.leased_until, row.wake_at, row.tries = None, None, now() + again_in, 0
