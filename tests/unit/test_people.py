"""Who may log in: names, passwords, admins, and what is left of those who go."""

from __future__ import annotations

import asyncio
import json
import stat
import types
from datetime import datetime
from pathlib import Path

import pytest

from himalia_spawner import people
from himalia_spawner.people import HimaliaAuthenticator, Passwords, refusal
from himalia_spawner.place import Place


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(people, "ROUNDS", 4)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(home=tmp_path, port=18000, domain="himalia.localhost", gateway="192.0.2.1")


@pytest.fixture
def login(place: Place):
    authenticator = HimaliaAuthenticator(place=place)
    return lambda name, password: authenticator.authenticate(None, {"username": name, "password": password})


@pytest.mark.parametrize("name", ["ada", "a", "ada_b", "ada.lovelace", "ada@example.org", "a1", "x" * 40])
def test_a_persons_name(name):
    assert refusal(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        "himalia",
        "hub",
        "endpoints",
        "Ada",
        "a b",
        "a/b",
        "a:b",
        "-a",
        "a-",
        "himalia--service",
        "a--b",
        "x" * 41,
        "ä",
        "a\n",
    ],
)
def test_a_name_that_would_collide_or_overflow_is_refused_with_a_sentence(name):
    assert refusal(name).endswith(".")


async def test_the_right_password_logs_in_and_no_other_does(place, login):
    Passwords(place.passwords).set("ada", "correct horse")
    assert await login("ada", "correct horse") == {"name": "ada", "admin": None}
    assert await login("ADA", "correct horse") == {"name": "ada", "admin": None}
    assert await login("ada", "wrong") is None
    assert await login("ada", "") is None
    assert await login("ben", "correct horse") is None


async def test_a_password_longer_than_bcrypts_limit_counts_whole(place, login):
    Passwords(place.passwords).set("ada", "x" * 100)
    assert await login("ada", "x" * 100) is not None
    assert await login("ada", "x" * 99) is None
    assert await login("ada", "x" * 2000) is None


async def test_an_unknown_name_costs_the_same_work(place, monkeypatch):
    work = []
    monkeypatch.setattr(people, "matches", lambda password, hash: work.append(hash) or False)
    authenticator = HimaliaAuthenticator(place=place)
    assert await authenticator.authenticate(None, {"username": "nobody", "password": "x"}) is None
    assert len(work) == 1
    assert work[0].startswith("$2b$04$")


async def test_an_admin_is_one_from_the_next_login_on(place, login):
    Passwords(place.passwords).set("ada", "secret")
    people.set_admin(place.admins, "ada", True)
    assert await login("ada", "secret") == {"name": "ada", "admin": True}


async def test_a_running_hub_sees_a_person_added_beside_it(place, login):
    Passwords(place.passwords).set("ada", "one")
    assert await login("ada", "one")
    Passwords(place.passwords).set("ada", "two")
    assert await login("ada", "one") is None
    assert await login("ada", "two")


def test_passwords_are_hashed_and_for_their_owner_only(place):
    Passwords(place.passwords).set("ada", "secret")
    assert stat.S_IMODE(place.passwords.stat().st_mode) == 0o600
    assert "secret" not in place.passwords.read_text()


async def test_people_added_at_the_same_time_are_all_there(place):
    names = [f"person{k}" for k in range(8)]
    await asyncio.gather(*(asyncio.to_thread(Passwords(place.passwords).set, name, "secret") for name in names))
    assert set(json.loads(place.passwords.read_text())) == set(names)


def test_only_people_in_the_file_are_allowed(place):
    authenticator = HimaliaAuthenticator(place=place)
    assert not authenticator.check_allowed("ada")
    Passwords(place.passwords).set("ada", "secret")
    assert authenticator.check_allowed("ada")


def test_of_somebody_deleted_the_password_goes_and_the_home_volume_is_listed(place):
    Passwords(place.passwords).set("ada", "secret")
    people.set_admin(place.admins, "ada", True)
    mounts = [
        {"source": "home-of-ada", "target": "/home/jovyan"},
        {"source": "group", "target": "/home/jovyan/shared/vision"},
    ]
    rows = {
        "": types.SimpleNamespace(state={"plan": {"mounts": mounts}}),
        "b": types.SimpleNamespace(state={"plan": {"mounts": mounts}}),
        "c": types.SimpleNamespace(state=None),
    }
    HimaliaAuthenticator(place=place).delete_user(types.SimpleNamespace(name="ada", orm_spawners=rows))
    assert Passwords(place.passwords).read() == {}
    assert people.admins(place.admins) == set()
    (entry,) = json.loads(place.trash.read_text())
    assert (entry["person"], entry["volume"]) == ("ada", "home-of-ada")
    assert datetime.fromisoformat(entry["date"])
