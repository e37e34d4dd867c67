"""A creation asked for twice with one key happens once. Both functions belong into the transaction that creates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from himalia_services.errors import Invalid
from himalia_services.model.caller import Caller
from himalia_services.store import tables as t

#: A key older than this may come again and mean something new.
KEPT = timedelta(days=7)


@dataclass(frozen=True)
class Key:
    """`key` is empty when the client gave none; `request` is the digest of method, path, query and body."""

    key: str = ""
    request: str = ""


async def replay(session: AsyncSession, caller: Caller, key: Key) -> str | None:
    """The id of what this key made before; None when it is new or no key was given. Another request under the key is Invalid."""
    if not key.key:
        return None
    row = await session.get(t.Idempotency, (caller.person_id, key.key))
    if row is None:
        return None
    if row.request != key.request:
        raise Invalid(
            "This Idempotency-Key was used for another request. A key belongs to one request: take a new one for this.",
            code="idempotency_key_reused",
        )
    return row.target


async def remember(session: AsyncSession, caller: Caller, key: Key, target: str) -> None:
    """Keep what the key made, so that `replay` finds it. Without a key nothing is kept."""
    if not key.key:
        return
    await session.execute(
        delete(t.Idempotency).where(
            t.Idempotency.owner_id == caller.person_id, t.Idempotency.created_at < t.now() - KEPT
        )
    )
    session.add(t.Idempotency(owner_id=caller.person_id, key=key.key, request=key.request, target=target))
