"""The database: engine, sessions, and one function that moves a row to another status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from himalia_services.errors import Conflict
from himalia_services.model.phases import ALLOWED
from himalia_services.store import tables as t


class Database:
    """Sessions over one database. `write()` begins IMMEDIATE on SQLite, since a deferred transaction that turns to
    writing fails at once when another wrote in between; `read()` sees one snapshot and never writes."""

    def __init__(self, url: str) -> None:
        self.engine: AsyncEngine = create_async_engine(url)
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._listeners: set[Callable[[], None]] = set()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncSession]:
        async with self._sessions() as session:
            yield session
            session.expunge_all()  # rows that were read stay readable; a rollback would empty them
            await session.rollback()

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncSession]:
        async with self._sessions() as session:
            await session.connection(execution_options={"himalia_write": True})
            yield session
            await session.commit()
        for wake in tuple(self._listeners):
            wake()

    def on_commit(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` after each commit of a write; returns the function that ends it."""
        self._listeners.add(wake)
        return lambda: self._listeners.discard(wake)

    async def wait_commit(self, timeout: float) -> None:
        """Return after the next commit or after `timeout` seconds."""
        done = asyncio.Event()
        off = self.on_commit(done.set)
        try:
            async with asyncio.timeout(timeout):
                await done.wait()
        except TimeoutError:
            pass
        finally:
            off()

    async def aclose(self) -> None:
        await self.engine.dispose()


def _prepare_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("himalia_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Movable(Protocol):
    """A row with a status: a job, a version, a workspace."""

    id: Any
    status: Any
    reason_code: Any
    reason_message: Any


def record(
    session: AsyncSession, kind: str, row: Any, *, owner: t.Owned | t.Environment, actor: str, worker: int | None = None
) -> None:
    """Append the event that says what `row` is now."""
    session.add(
        t.Event(
            actor=actor,
            target_kind=kind,
            target=row.id,
            owner_id=owner.owner_id,
            owner=owner.owner,
            group=owner.group,
            attempt=getattr(row, "attempt", None),
            worker=worker,
            status=getattr(row, "status", ""),
            reason_code=getattr(row, "reason_code", ""),
            reason_message=getattr(row, "reason_message", ""),
        )
    )


def move(
    session: AsyncSession,
    kind: str,
    row: Movable,
    status: str,
    *,
    owner: Any,
    actor: str,
    reason_code: str = "",
    reason_message: str = "",
) -> None:
    """Write a status: checks the table of allowed moves and appends the event in the same transaction.

    The same status with the same reason is nothing; an illegal move is a Conflict.
    """
    if row.status == status and (row.reason_code, row.reason_message) == (reason_code, reason_message):
        return
    if row.status != status and status not in ALLOWED[kind][row.status]:
        raise Conflict(f"A {kind} that is {row.status} cannot become {status}.", code="illegal_transition")
    row.status, row.reason_code, row.reason_message = status, reason_code, reason_message
    record(session, kind, row, owner=owner, actor=actor)
