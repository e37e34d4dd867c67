"""Scopes are a hierarchy the hub takes as it is."""

import re

import pytest

from himalia import scopes
from himalia_services.model.caller import Caller

#: JupyterHub's own rule for custom scopes.
CUSTOM = re.compile(r"custom:[a-z0-9][a-z0-9_\-\*:]+[a-z0-9_\*]")


def contained(scope: str) -> set[str]:
    found = {scope}
    for inner in scopes.SCOPES[scope].get("subscopes", []):
        found |= contained(inner)
    return found


@pytest.mark.parametrize("scope", scopes.SCOPES)
def test_the_hub_takes_every_scope(scope: str) -> None:
    assert CUSTOM.fullmatch(scope)
    assert scopes.SCOPES[scope]["description"]
    assert contained(scope) <= set(scopes.SCOPES)


@pytest.mark.parametrize("noun", [*scopes.NOUNS, "usage"])
def test_write_contains_read_and_nothing_of_other_nouns(noun: str) -> None:
    assert contained(scopes.write(noun)) == {scopes.write(noun), scopes.read(noun)}


def test_admin_contains_everything() -> None:
    assert contained(scopes.ADMIN) == set(scopes.SCOPES)


def test_people_get_neither_admin_nor_a_say_in_usage() -> None:
    held = set().union(*(contained(scope) for scope in scopes.PERSON))
    assert scopes.ADMIN not in held
    assert scopes.write("usage") not in held
    assert {scopes.write(noun) for noun in scopes.NOUNS} <= held


@pytest.mark.parametrize(
    ("held", "may"),
    [
        ("custom:himalia:jobs:write", True),
        ("custom:himalia:jobs:write!user=ada", True),
        ("custom:himalia:jobs:write!user", True),
        ("custom:himalia:jobs:write!user=ben", False),
        ("custom:himalia:jobs:read!user=ada", False),
        ("custom:himalia:environments:write!user=ada", False),
    ],
)
def test_a_caller_may_what_the_token_carries_for_everybody_or_for_themselves(held: str, may: bool) -> None:
    ada = Caller(name="ada", person_id="p-1", scopes=frozenset({held}))
    assert ada.may("custom:himalia:jobs:write") is may
