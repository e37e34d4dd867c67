"""The spawn page: what is offered, what is ticked, what is said."""

from __future__ import annotations

import re

import pytest

from himalia_spawner import options

OFFER = {
    "environments": [
        {
            "ref": "himalia/base",
            "preset": True,
            "mine": False,
            "latest": {"ref": "himalia/base:2"},
            "description": "Python",
        },
        {"ref": "ada/nlp", "preset": False, "mine": True, "latest": {"ref": "ada/nlp:1", "note": "tokenizers"}},
        {
            "ref": "ben/vision",
            "preset": False,
            "mine": False,
            "latest": {"ref": "ben/vision:3"},
            "runs_as_you": "Made by ben; programs in it run as you.",
        },
    ],
    "machines": [
        {"name": "small", "display_name": "Small", "cpu": 1, "memory_bytes": 2**30},
        {"name": "large", "display_name": "", "cpu": 2.5, "memory_bytes": 3 * 2**29},
    ],
    "environment": "himalia/base:2",
    "machine": "small",
    "locked": "",
}


def ticked(page: str) -> set[tuple[str, str]]:
    return set(re.findall(r'name="(\w+)" value="([^"]+)" checked', page))


def test_the_proposal_is_ticked():
    assert ticked(options.render(OFFER, {})) == {("environment", "himalia/base:2"), ("machine", "small")}


@pytest.mark.parametrize("wanted", ["ben/vision", "ben/vision:3"])
def test_a_link_ticks_what_it_names(wanted):
    page = options.render(OFFER, {"environment": wanted, "machine": "large"})
    assert ticked(page) == {("environment", "ben/vision:3"), ("machine", "large")}


def test_a_link_to_what_is_not_offered_says_so_and_ticks_the_proposal():
    page = options.render(OFFER, {"environment": "mallory/trap"})
    assert "mallory/trap is not offered to you" in page
    assert ("environment", "himalia/base:2") in ticked(page)


def test_environments_stand_in_groups_with_whose_programs_run():
    page = options.render(OFFER, {})
    order = [
        page.index(text)
        for text in ("Offered here", "himalia/base:2", "Mine", "ada/nlp:1", "Shared with me", "ben/vision:3")
    ]
    assert order == sorted(order)
    assert page.count("programs in it run as you") == 1


def test_a_locked_workspace_offers_machines_only():
    page = options.render(OFFER | {"locked": "This workspace runs himalia/base:1."}, {})
    assert "This workspace runs himalia/base:1." in page
    assert {name for name, _ in ticked(page)} == {"machine"}
    assert 'name="environment"' not in page


def test_while_the_first_image_is_built_the_page_says_so_and_still_starts():
    page = options.render(OFFER | {"environments": [], "environment": "himalia/base:1"}, {})
    assert "still being built" in page
    assert {name for name, _ in ticked(page)} == {"machine"}
    assert "still being built" not in options.render(OFFER, {})


def test_without_the_control_plane_the_page_starts_the_workspace_as_it_was():
    page = options.render(None, {})
    assert "as it last was" in page
    assert "<input" not in page


def test_what_people_write_is_no_markup():
    evil = {**OFFER["environments"][1], "latest": {"ref": "ada/nlp:1", "note": "<script>x</script>"}}
    page = options.render(OFFER | {"environments": [evil]}, {"environment": '"><b>'})
    assert "<script>" not in page
    assert "<b>" not in page


def test_sizes_are_said_as_people_say_them():
    assert options.size(3 * 2**29) == "1.5 GiB"
    assert options.size(2**28) == "256 MiB"


def test_the_form_gives_what_was_chosen_and_nothing_else():
    form = {"environment": ["ada/nlp:1"], "machine": [""], "_xsrf": ["x"], "image": ["evil"]}
    assert options.from_form(form) == {"environment": "ada/nlp:1"}
