"""One page of a list, newest first, by keyset: rows that come or go meanwhile neither repeat nor hide others."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, or_
from sqlalchemy.ext.asyncio import AsyncSession

from himalia_services.model.page import Cursor, Paging


async def page(session: AsyncSession, query: Select[Any], table: Any, paging: Paging) -> tuple[list[Any], str | None]:
    """The rows of `query` (a select of `table`, without order) on this page, and the token of the next one."""
    if (after := paging.after) is not None:
        query = query.where(
            or_(table.created_at < after.created_at, and_(table.created_at == after.created_at, table.id < after.id))
        )
    ordered = query.order_by(table.created_at.desc(), table.id.desc()).limit(paging.limit + 1)
    rows = list(await session.scalars(ordered))
    if len(rows) <= paging.limit:
        return rows, None
    last = rows[paging.limit - 1]
    return rows[: paging.limit], Cursor(last.created_at, last.id).token()
