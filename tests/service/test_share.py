"""Who sees and uses whose environments, and how soon that changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from himalia_services.parts import Parts
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import House, opened

VISION = "/environments/ada/vision"


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    """Ada has saved ada/vision:1."""
    async with opened(parts, hub) as house:
        plan = await house.started("ada")
        await house.save("ada", plan["workspace_id"], "vision")
        yield house


async def share(house: House, *, expect: int | None = None, who: str = "ada", **request: object) -> dict:
    return await house.ask(who, "PATCH", VISION, request, expect=expect)


async def sees(house: House, who: str) -> bool:
    """By every way there is; they must agree."""
    listed = "ada/vision" in [e["ref"] for e in (await house.ask(who, "GET", "/environments"))["items"]]
    ways = [
        (await house.send(who, "GET", VISION)).status_code,
        (await house.send(who, "GET", f"{VISION}/versions/1")).status_code,
        (await house.send(who, "GET", f"{VISION}/versions/1/packages")).status_code,
    ]
    person = house.hub.people[who]
    body = {
        "user": who,
        "user_created": person.created,
        "groups": person.groups,
        "server": f"try{len(house.hub.calls)}",
        "container": False,
    }
    plan = await house.tell(
        "launch-plan", body | {"user_options": {"environment": "ada/vision:1"}}, expect=200 if listed else 404
    )
    assert set(ways) == ({200} if listed else {404}), ways
    return listed and plan["environment"] == "ada/vision:1"


@pytest.mark.parametrize(
    ("request_", "seen_by"),
    [
        ({"visibility": "private"}, set()),
        ({"visibility": "people", "people": ["ben"]}, {"ben"}),
        ({"visibility": "people", "people": ["eve", "ben"]}, {"ben", "eve"}),
        ({"visibility": "group", "group": "vision"}, {"ben"}),
        ({"visibility": "everyone"}, {"ben", "eve"}),
    ],
)
async def test_a_level_is_for_exactly_those_it_names_and_holds_at_once(
    house: House, request_: dict, seen_by: set[str]
) -> None:
    await share(house, visibility="everyone")
    await share(house, **request_)
    assert {who for who in ("ben", "eve") if await sees(house, who)} == seen_by
    assert await sees(house, "ada")


async def test_leaving_the_group_ends_the_right_at_once(house: House) -> None:
    await share(house, visibility="group", group="vision")
    assert await sees(house, "ben")
    house.hub.people["ben"].groups = []
    house.forget("ben")
    assert not await sees(house, "ben")


async def test_names_that_differ_in_case_are_different_people(house: House) -> None:
    house.hub.person("Ben")
    await share(house, visibility="people", people=["Ben"])
    assert not await sees(house, "ben")


@pytest.mark.parametrize("name", ['be"n', "be%n", "be_n", "b\\n", "bén"])
async def test_a_name_of_any_spelling_is_found_in_a_share(house: House, name: str) -> None:
    await share(house, visibility="people", people=[name])
    assert not await sees(house, "ben")
    house.hub.person(name)
    assert "ada/vision" in [e["ref"] for e in (await house.ask(name, "GET", "/environments"))["items"]]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"visibility": "group"}, "which group"),
        ({"visibility": "group", "group": "audio"}, "not in the group audio"),
        ({"visibility": "people"}, "with whom"),
        ({"visibility": "people", "people": ["ada"]}, "with whom"),
        ({"visibility": "people", "people": ["a b"]}, "log in with"),
        ({"visibility": "world"}, "visibility"),
        ({"visibility": "people", "people": [f"p{n}" for n in range(501)]}, "group instead"),
        ({"visibility": "private", "description": "x" * 4001}, "characters"),
    ],
)
async def test_a_share_that_cannot_be_is_refused_with_the_reason_and_changes_nothing(
    house: House, request_: dict, sentence: str
) -> None:
    problem = await share(house, expect=422, **request_)
    assert sentence in problem["detail"]
    assert (await house.ask("ada", "GET", VISION))["visibility"] == "private"


async def test_only_its_owner_and_admins_change_it(house: House) -> None:
    await share(house, visibility="everyone")
    problem = await share(house, who="ben", visibility="private", expect=403)
    assert "belongs to ada" in problem["detail"]
    await house.ask("ben", "DELETE", VISION, expect=403)
    await house.ask("ben", "DELETE", f"{VISION}/versions/1", expect=403)
    assert (await share(house, who="root", visibility="private"))["visibility"] == "private"


async def test_whom_it_is_shared_with_is_its_owners_to_know(house: House) -> None:
    await share(house, visibility="people", people=["eve", "ben", "ben"], description="Digits")
    assert (await house.ask("ada", "GET", VISION))["people"] == ["ben", "eve"]
    shown = await house.ask("ben", "GET", VISION)
    assert (shown["people"], shown["description"]) == ([], "Digits")


async def test_others_environments_say_whose_programs_run(house: House) -> None:
    await share(house, visibility="everyone")
    assert (await house.ask("ben", "GET", VISION))["runs_as_you"] == "Made by ada; programs in it run as you."
    assert (await house.ask("ada", "GET", VISION))["runs_as_you"] == ""
    assert (await house.ask("ben", "GET", "/environments/himalia/base"))["runs_as_you"] == ""


async def test_a_share_is_an_event_with_its_actor(house: House) -> None:
    await share(house, who="root", visibility="people", people=["ben"])
    event = (await house.rows(t.Event, t.Event.target_kind == "environment"))[-1]
    assert (event.actor, event.owner, event.reason_message) == ("root", "ada", "Shared with ben.")


async def test_presets_are_nobodys_to_change(house: House) -> None:
    for who in ("ada", "root"):
        await house.ask(who, "PATCH", "/environments/himalia/base", {"visibility": "private"}, expect=403)
        await house.ask(who, "DELETE", "/environments/himalia/base", expect=403)


async def test_a_person_called_as_the_platform_gets_nothing_of_it(house: House) -> None:
    house.hub.person("himalia")
    plan = await house.started("himalia")
    problem = await house.ask(
        "himalia", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "base"}, expect=422
    )
    assert "platform" in problem["detail"]
    await house.ask("himalia", "DELETE", "/environments/himalia/base", expect=403)


async def test_a_new_person_of_an_old_name_does_not_own_what_the_old_one_saved(house: House) -> None:
    house.hub.people["ada"].created = "2026-12-24T00:00:00.000000Z"
    house.forget("ada")
    await house.ask("ada", "GET", VISION, expect=404)


async def test_two_people_of_one_name_each_find_their_own(house: House) -> None:
    await share(house, visibility="everyone")
    house.hub.people["ada"].created = "2026-12-24T00:00:00.000000Z"
    house.forget("ada")
    assert not (await house.ask("ada", "GET", VISION))["mine"]
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    assert (await house.ask("ada", "GET", VISION))["mine"]


async def test_a_token_that_may_only_read_cannot_share(house: House) -> None:
    token = house.hub.token("ada", ["access:services!service=himalia", "custom:himalia:environments:read!user"])
    answer = await house.send(
        "ada", "PATCH", VISION, {"visibility": "everyone"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 403
