"""Packs people upload. The bytes are kept once; a row says who may make jobs of them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from himalia_services.errors import NotFound
from himalia_services.model.caller import Caller
from himalia_services.model.pack import Listing
from himalia_services.store import tables as t
from himalia_services.store.tables import now

#: Who asks whether a pack is here is about to use it, so it counts as new again.
FRESH = timedelta(minutes=20)


async def find(session: AsyncSession, caller: Caller, digest: str) -> t.Input:
    """A pack the caller has uploaded; that somebody else has the same bytes is not theirs to know."""
    row = await session.get(t.Input, (digest, caller.person_id))
    if row is None:
        raise NotFound(f"There is no input {digest[:80]}. Upload it with PUT.", code="input_not_found")
    return row


async def keep(session: AsyncSession, caller: Caller, digest: str, size_bytes: int, listing: Listing) -> t.Input:
    """The caller may make jobs of this pack from now on."""
    row = await session.get(t.Input, (digest, caller.person_id))
    if row is None:
        row = t.Input(
            digest=digest, owner_id=caller.person_id, size_bytes=size_bytes, files=listing.count, listing=listing.files
        )
        session.add(row)
    row.created_at = now()
    return row
