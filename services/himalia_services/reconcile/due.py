"""Rows that are due: claimed by lease, held while somebody acts on them, given back whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from himalia_services.errors import EngineUnavailable, Unavailable
from himalia_services.store import lease
from himalia_services.store.db import Database
from himalia_services.store.tables import now

log = structlog.get_logger(__name__)

BACKOFF = timedelta(seconds=1)
BACKOFF_MOST = timedelta(seconds=30)


class Lost(Exception):
    """The lease is somebody else's by now: what was found out is dropped."""


async def claim(db: Database, table: Any, where: ColumnElement[bool], holder: str, limit: int = 20) -> Sequence[str]:
    """Lease up to `limit` rows that are due and free; returns their ids.

    It looks before it claims: every commit wakes the loops, so a claim of nothing would wake them for ever.
    """
    free = or_(table.leased_until.is_(None), table.leased_until < now())
    async with db.read() as session:
        found = await session.scalar(select(table.id).where(where, table.wake_at <= now(), free).limit(1))
    if found is None:
        return ()
    async with db.write() as session:
        return await lease.claim(session, table, where, holder, limit)


async def free(db: Database, tables: Sequence[Any]) -> None:
    """Void the leases a killed process left. On SQLite one process owns the database, so nobody else can hold one."""
    if db.engine.dialect.name != "sqlite":
        return
    async with db.write() as session:
        for table in tables:
            await session.execute(update(table).where(table.lease.is_not(None)).values(lease=None, leased_until=None))


async def each(
    db: Database,
    table: Any,
    where: ColumnElement[bool],
    holder: str,
    act: Callable[[str], Awaitable[None]],
    limit: int = 20,
) -> None:
    """Claim what is due and act on every row at the same time, keeping its lease meanwhile.

    `act` settles and releases its row. When something did not answer the row is due again after a pause that grows; when `act`
    breaks, the same with a line in the log. One row never disturbs another.
    """
    ids = await claim(db, table, where, holder, limit)
    async with asyncio.TaskGroup() as group:
        for id in ids:
            group.create_task(hold(db, table, id, holder, act))


async def hold(db: Database, table: Any, id: str, holder: str, act: Callable[[str], Awaitable[None]]) -> None:
    """Act on one leased row; see `each`."""
    try:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(_keep(db, table, id, holder))
            try:
                await act(id)
            finally:
                keeper.cancel()
    except* Lost:
        log.warning("lease_lost", row=id)
    except* (EngineUnavailable, Unavailable) as errors:
        log.warning("not_answering", row=id, error=str(errors.exceptions[0]))
        await _pause(db, table, id, holder)
    except* Exception:
        log.exception("reconcile_failed", row=id)
        await _pause(db, table, id, holder)


async def _keep(db: Database, table: Any, id: str, holder: str) -> None:
    """Prolong the lease again and again. A database that fails a while costs nobody their work before the lease has run out."""
    term = lease.LEASE.total_seconds()
    end = time.monotonic() + term
    while True:
        await asyncio.sleep(max(0.0, min(term / 3, end - time.monotonic())))
        asked = time.monotonic()
        try:
            async with db.write() as session:
                if not await lease.prolong(session, table, id, holder):
                    raise Lost(id)
            end = asked + term
        except (SQLAlchemyError, OSError) as error:
            if time.monotonic() >= end:
                raise Lost(id) from error
            log.warning("lease_not_prolonged", row=id, error=str(error))


async def _pause(db: Database, table: Any, id: str, holder: str) -> None:
    async with db.write() as session:
        row = await lease.held(session, table, id, holder)
        if row is None:
            return
        tries = row.tries + 1
        lease.release(row, again_in=min(BACKOFF * 2 ** min(tries - 1, 10), BACKOFF_MOST))
        row.tries = tries
