"""The transition tables are whole, and the hub's word about a server never asks for an illegal move."""

from __future__ import annotations

from itertools import product

import pytest

from himalia import schema
from himalia_services.model.phases import ALLOWED, JOB, VERSION, WORKSPACE, terminal
from himalia_services.model.workload import Mount
from himalia_services.model.workspace import Change, Seen, conclude, mounts_hash


@pytest.mark.parametrize("noun", ALLOWED)
def test_every_successor_is_a_state_itself(noun: str) -> None:
    table = ALLOWED[noun]
    assert {after for successors in table.values() for after in successors} <= set(table)


@pytest.mark.parametrize("noun", ALLOWED)
def test_no_state_follows_itself(noun: str) -> None:
    assert not [status for status, successors in ALLOWED[noun].items() if status in successors]


@pytest.mark.parametrize("noun", ALLOWED)
def test_an_end_can_be_reached_from_every_state(noun: str) -> None:
    table = ALLOWED[noun]
    ends = {status for status in table if terminal(noun, status)}
    grown = True
    while grown:
        more = {status for status, successors in table.items() if successors & ends}
        grown = not more <= ends
        ends |= more
    assert ends == set(table)


def test_clients_know_which_states_have_not_ended() -> None:
    assert {s for s in JOB if not terminal("job", s)} == schema.LIVE_JOB_STATES
    assert {s for s in VERSION if not terminal("version", s)} == schema.LIVE_VERSION_PHASES


def test_a_failed_or_saved_version_stays_so() -> None:
    assert VERSION["Saved"] == VERSION["Failed"] == frozenset()


SEEN = [
    None,
    Seen(False),
    Seen(True),
    Seen(False, "spawn"),
    Seen(True, "stop"),
    Seen(False, "stop"),
    Seen(False, "check"),
]


@pytest.mark.parametrize(("status", "seen"), list(product(WORKSPACE, SEEN)))
def test_what_the_hub_says_leads_only_where_the_table_allows_it_or_is_no_news(status: str, seen: Seen | None) -> None:
    change = conclude(status, seen)
    assert change is None or change.status in WORKSPACE[status]


@pytest.mark.parametrize(
    ("status", "seen", "change"),
    [
        ("Running", Seen(True), None),
        ("Running", None, Change("Stopped")),
        ("Running", Seen(False, "stop"), Change("Stopping")),
        ("Stopping", Seen(False), Change("Stopped")),
        ("Stopped", Seen(True), Change("Running")),
        ("Stopped", Seen(False, "spawn"), Change("Starting")),
        ("Failed", None, None),
        ("Failed", Seen(True), Change("Running")),
        ("Creating", None, Change("Stopped")),
        ("Deleting", Seen(True), None),
    ],
)
def test_a_workspace_becomes_what_the_hub_says(status: str, seen: Seen | None, change: Change | None) -> None:
    assert conclude(status, seen) == change


def test_a_start_that_came_to_nothing_says_so() -> None:
    change = conclude("Starting", Seen(False))
    assert change is not None
    assert (change.status, change.reason_code) == ("Failed", "server_failed")


def test_other_mounts_have_another_hash() -> None:
    home = Mount(source="h", target="/home/jovyan")
    vision = Mount(source="v", target="/home/jovyan/shared/vision")
    lists = [[home], [home, vision], [vision, home], [Mount(source="h", target="/home/jovyan", read_only=True)], []]
    assert len({mounts_hash(mounts) for mounts in lists}) == len(lists)
