"""Which events a caller may see."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia import scopes
from himalia_services.model.caller import Caller
from himalia_services.store import tables as t

BATCH = 200
_NOUN = {"workspace": "workspaces", "environment": "environments", "version": "environments", "job": "jobs"}


async def last(session: AsyncSession) -> int:
    return await session.scalar(select(func.max(t.Event.id))) or 0


async def after(session: AsyncSession, caller: Caller, id: int, *, everybody: bool = False) -> Sequence[t.Event]:
    """The next events after `id`, at most `BATCH`: the caller's own, or everybody's, of the nouns the token may read."""
    kinds = [kind for kind, noun in _NOUN.items() if caller.may(scopes.read(noun))]
    query = select(t.Event).where(t.Event.id > id, t.Event.target_kind.in_(kinds))
    if not everybody:
        query = query.where(t.Event.owner_id == caller.person_id)
    return (await session.scalars(query.order_by(t.Event.id).limit(BATCH))).all()
