"""A person is a name and the moment the hub made it: nobody inherits what a namesake left."""

from __future__ import annotations

import pytest

from himalia_services.control import person
from himalia_services.store.db import Database

FIRST, SECOND = "2026-11-01T07:00:00.000000Z", "2026-12-24T18:00:00.000000Z"


async def seen(db: Database, name: str, created: str = "") -> str:
    async with db.write() as session:
        return (await person.seen(session, name, created)).id


async def current(db: Database, name: str) -> str:
    async with db.write() as session:
        return (await person.current(session, name)).id


async def test_the_same_name_made_again_is_somebody_else(db: Database) -> None:
    first, second = await seen(db, "ada", FIRST), await seen(db, "ada", SECOND)
    assert first != second
    assert await seen(db, "ada", FIRST) == first
    assert await current(db, "ada") == second


@pytest.mark.parametrize(
    "spelling",
    ["2026-11-01T07:00:00Z", "2026-11-01T07:00:00+00:00", "2026-11-01T08:00:00+01:00", "2026-11-01T07:00:00"],
)
async def test_one_moment_is_one_person_however_it_is_spelled(db: Database, spelling: str) -> None:
    assert await seen(db, "ada", FIRST) == await seen(db, "ada", spelling)


async def test_who_was_known_by_name_only_keeps_the_key_when_the_moment_is_told(db: Database) -> None:
    known = await current(db, "ada")
    assert await seen(db, "ada", FIRST) == known
    assert await seen(db, "ada", SECOND) != known


async def test_without_a_moment_the_name_s_present_holder_is_meant(db: Database) -> None:
    assert await seen(db, "ada") == await seen(db, "ada") == await current(db, "ada")
    assert await seen(db, "ada") != await seen(db, "ben")


async def test_looking_makes_nobody(db: Database) -> None:
    async with db.read() as session:
        assert await person.known(session, "ada") is None
