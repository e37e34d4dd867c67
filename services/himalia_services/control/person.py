"""People by a key that is never given twice: a name given again after a deletion on the hub is another person."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from himalia_services.model import names
from himalia_services.store import tables as t

#: Found by name before the hub told when it made them; the first moment it tells is taken as theirs.
UNKNOWN = ""


async def known(session: AsyncSession, name: str, hub_created: str = UNKNOWN) -> t.Person | None:
    """The person, if there is one; without `hub_created` the newest of that name. Writes nothing."""
    wanted = select(t.Person).where(t.Person.name == name)
    if moment := canonical(hub_created):
        wanted = wanted.where(t.Person.hub_created == moment)
    return await session.scalar(wanted.order_by(t.Person.created_at.desc(), t.Person.id.desc()).limit(1))


async def current(session: AsyncSession, name: str) -> t.Person:
    """Who has the name now, as far as we have heard; made when nobody has."""
    return await known(session, name) or await _new(session, name, UNKNOWN)


async def seen(session: AsyncSession, name: str, hub_created: str) -> t.Person:
    """Who has the name, told apart by the moment the hub made them."""
    moment = canonical(hub_created)
    if not moment:
        return await current(session, name)
    if (person := await known(session, name, moment)) is not None:
        return person
    waiting = await session.scalar(select(t.Person).where(t.Person.name == name, t.Person.hub_created == UNKNOWN))
    if waiting is None:
        return await _new(session, name, moment)
    waiting.hub_created = moment
    return waiting


def canonical(moment: str) -> str:
    """One spelling of a moment, however the hub wrote it; what is no moment stays as it is."""
    try:
        read = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


async def _new(session: AsyncSession, name: str, hub_created: str) -> t.Person:
    person = t.Person(id=names.fresh("p"), name=name, hub_created=hub_created)
    session.add(person)
    await session.flush()  # rows that name this person may follow in the same transaction
    return person
