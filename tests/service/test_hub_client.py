"""What the control plane makes of the hub's answers, also of the wrong ones."""

from __future__ import annotations

import pytest

from himalia_services import errors
from himalia_services.parts import Parts
from service.fakehub import FakeHub, FakeServer


async def test_people_come_with_their_servers_page_after_page(parts: Parts, hub: FakeHub) -> None:
    for i in range(401):
        hub.person(f"p{i:03}", groups=["all"])
    await parts.hub.start("p007", "gpu", user_options={"machine": "large"})
    users = await parts.hub.users()
    assert [user.name for user in users] == [f"p{i:03}" for i in range(401)]
    server = users[7].servers["gpu"]
    assert (server.ready, server.pending, server.stopped, server.user_options) == (
        True,
        "",
        False,
        {"machine": "large"},
    )
    assert len((await parts.hub.groups())["all"]) == 401


async def test_somebody_who_is_not_there_is_none(parts: Parts) -> None:
    assert await parts.hub.user("nobody") is None
    assert await parts.hub.server("nobody", "x") is None


async def test_a_name_is_a_name_whatever_is_in_it(parts: Parts, hub: FakeHub) -> None:
    hub.person("a/b?c=d#e")
    user = await parts.hub.user("a/b?c=d#e")
    assert user is not None
    assert user.name == "a/b?c=d#e"


async def test_starting_is_done_once_it_is_on_its_way(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    hub.slow_start = True
    await parts.hub.start("ada")
    assert hub.people["ada"].servers[""].pending == "spawn"


async def test_starting_what_runs_is_success(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    await parts.hub.start("ada")
    await parts.hub.start("ada")


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_start_that_goes_on_behind_an_error_is_success(parts: Parts, hub: FakeHub, status: int) -> None:
    hub.person("ada")
    hub.refuse("POST", "/server", status, "InvalidStateError", then_do=True)
    await parts.hub.start("ada")


async def test_a_start_that_failed_says_why(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    hub.refuse("POST", "/server", 500, "The workspace's disk is full.")
    with pytest.raises(errors.Conflict, match="disk is full") as refusal:
        await parts.hub.start("ada")
    assert refusal.value.reason == "server_failed"


async def test_a_start_nobody_answered_is_tried_again(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    hub.refuse("POST", "/server", 503, "The image is being built.")
    with pytest.raises(errors.HubUnavailable, match="image is being built"):
        await parts.hub.start("ada")


@pytest.mark.parametrize("pending", ["stop", None])
async def test_a_start_during_a_stop_is_tried_again(parts: Parts, hub: FakeHub, pending: str | None) -> None:
    hub.person("ada").servers[""] = FakeServer("", pending=pending)
    hub.refuse("POST", "/server", 400, "ada is pending stop")
    with pytest.raises(errors.HubUnavailable, match="still being stopped"):
        await parts.hub.start("ada")


async def test_a_refused_start_is_a_conflict_with_the_hub_s_sentence(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    hub.refuse("POST", "/server", 409, "It has another environment.")
    with pytest.raises(errors.Conflict, match="another environment"):
        await parts.hub.start("ada")


async def test_making_a_server_starts_nothing_and_may_be_repeated(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    for _ in range(2):
        await parts.hub.make("ada", "gpu", display_name="My GPU", user_options={"machine": "large"})
    server = await parts.hub.server("ada", "gpu")
    assert server is not None
    assert (server.ready, server.display_name, server.user_options) == (False, "My GPU", {"machine": "large"})


async def test_stopping_and_deleting_what_is_absent_is_success(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    await parts.hub.stop("ada")
    await parts.hub.stop("ada", "gone")
    await parts.hub.delete("ada", "gone")
    await parts.hub.stop("nobody")


async def test_deleting_a_server_takes_it_away_for_good(parts: Parts, hub: FakeHub) -> None:
    hub.person("ada")
    await parts.hub.start("ada", "gpu")
    await parts.hub.delete("ada", "gpu")
    assert hub.people["ada"].servers == {}


async def test_the_hub_is_never_taken_for_an_image_s_options(parts: Parts, hub: FakeHub) -> None:
    """A body without `user_options` would itself be taken for them."""
    hub.person("ada")
    await parts.hub.start("ada")
    assert hub.bodies[-1] == {"user_options": None}


async def test_a_hub_that_is_away_is_unavailable(parts: Parts, hub: FakeHub) -> None:
    await hub.stop()
    for ask in (
        parts.hub.users(),
        parts.hub.groups(),
        parts.hub.start("ada"),
        parts.hub.stop("ada"),
        parts.hub.token_for_code("c", "v"),
    ):
        with pytest.raises(errors.HubUnavailable):
            await ask


async def test_a_hub_that_refuses_our_token_is_unavailable_with_the_cure(parts: Parts, hub: FakeHub) -> None:
    hub.refuse("GET", "/users", 403, "Missing or invalid credentials.")
    with pytest.raises(errors.HubUnavailable, match="himalia up"):
        await parts.hub.users()
