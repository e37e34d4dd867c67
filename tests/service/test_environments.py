"""Listing, showing and deleting environments and their versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from himalia_services.control import preset
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.parts import Parts
from himalia_services.reconcile import version
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import House, opened

VISION = "/environments/ada/vision"


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    async with opened(parts, hub) as house:
        yield house


async def saved(house: House, name: str = "vision", who: str = "ada") -> dict:
    """A save of a workspace that is used for nothing else, so that nothing uses the version."""
    plan = await house.started(who)
    return await house.save(who, plan["workspace_id"], name)


async def test_the_list_has_mine_the_shared_and_the_presets_newest_first_page_by_page(house: House) -> None:
    for name in ("one", "two", "three"):
        await saved(house, name)
    first = await house.ask("ada", "GET", "/environments", limit=3)
    assert [e["ref"] for e in first["items"]] == ["ada/three", "ada/two", "ada/one"]
    second = await house.ask("ada", "GET", "/environments", limit=3, page_token=first["next_token"])
    assert [e["ref"] for e in second["items"]] == ["himalia/base"]
    assert second["next_token"] is None
    assert [(e["preset"], e["mine"]) for e in second["items"]] == [(True, False)]


async def test_admins_see_everybodys_when_they_ask_and_nobody_else_may(house: House) -> None:
    await saved(house)
    assert "ada/vision" not in [e["ref"] for e in (await house.ask("root", "GET", "/environments"))["items"]]
    assert "ada/vision" in [e["ref"] for e in (await house.ask("root", "GET", "/environments", all="true"))["items"]]
    await house.ask("ben", "GET", "/environments", all="true", expect=403)


async def test_the_latest_version_is_the_newest_that_is_saved(house: House) -> None:
    await saved(house)
    house.engine.fail_save()
    await saved(house)
    shown = await house.ask("ada", "GET", VISION)
    assert shown["latest"]["number"] == 1
    assert [(v["number"], v["phase"]) for v in shown["versions"]] == [(2, "Failed"), (1, "Saved")]


async def test_a_version_tells_its_history_stretch_by_stretch(house: House) -> None:
    history = (await saved(house))["status_history"]
    assert [h["end_time"] for h in history[:-1]] == [h["start_time"] for h in history[1:]]
    assert history[-1]["end_time"] is None


async def test_what_is_not_there_is_not_found_with_a_way_on(house: House) -> None:
    await saved(house)
    assert (
        "no environment ada/nothing"
        in (await house.ask("ada", "GET", "/environments/ada/nothing", expect=404))["detail"]
    )
    problem = await house.ask("ada", "GET", f"{VISION}/versions/7", expect=404)
    assert problem["link"] == VISION
    await house.ask("ada", "GET", f"{VISION}/versions/0", expect=422)


# Presets


async def test_the_base_image_is_registered_once_however_many_look(house: House) -> None:
    settings, catalog = house.parts.settings, house.parts.catalog
    settings.built.write_text(settings.built.read_text().replace("a" * 64, "b" * 64))
    await asyncio.gather(*(preset.refresh(house.parts.db, settings, catalog) for _ in range(5)))
    shown = await house.ask("ada", "GET", "/environments/himalia/base")
    assert [v["number"] for v in shown["versions"]] == [2, 1]
    assert shown["description"] == catalog.default_preset.description


async def test_a_new_base_image_is_seen_by_the_loop_too(house: House) -> None:
    house.parts.settings.built.write_text(house.parts.settings.built.read_text().replace("a" * 64, "b" * 64))
    await version.step(house.parts, "test")
    assert (await house.ask("ada", "GET", "/environments/himalia/base"))["latest"]["number"] == 2


# Delete


async def test_a_deleted_version_is_gone_at_once_and_its_image_soon_after(house: House) -> None:
    made = await saved(house)
    await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=204)
    await house.ask("ada", "GET", f"{VISION}/versions/1", expect=404)
    await house.turn()
    assert house.registry.deleted == [(made["image"]["repository"], made["digest"])]
    assert made["image"]["config_digest"] in house.engine.removed_images


async def test_a_number_is_never_given_again(house: House) -> None:
    await saved(house)
    await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=204)
    assert (await saved(house))["ref"] == "ada/vision:2"


async def test_a_name_is_free_again_after_its_environment_was_deleted_and_keeps_nothing_of_it(house: House) -> None:
    old = await saved(house)
    await house.ask("ada", "PATCH", VISION, {"visibility": "everyone"})
    await house.ask("ada", "DELETE", VISION, expect=204)
    await house.ask("ada", "GET", VISION, expect=404)
    new = await saved(house)
    assert new["ref"] == "ada/vision:1"
    assert new["image"]["repository"] != old["image"]["repository"]
    assert (await house.ask("ada", "GET", VISION))["visibility"] == "private"


async def test_a_version_a_workspace_was_made_from_is_not_deleted(house: House) -> None:
    await saved(house)
    user = await house.started("ada", "second", environment="ada/vision:1")
    problem = await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=409)
    assert problem["code"] == "in_use"
    assert problem["link"] == f"/workspaces/{user['workspace_id']}"
    assert "ada's workspace second" in problem["detail"]
    await house.ask("ada", "DELETE", VISION, expect=409)
    assert (await house.ask("ada", "GET", VISION))["latest"]["number"] == 1


async def test_a_version_a_workspace_is_to_start_from_is_not_deleted(house: House) -> None:
    await saved(house)
    await house.ask("ada", "POST", "/workspaces", {"name": "second", "environment": "ada/vision:1", "start": False})
    await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=409)


async def test_a_version_a_live_job_runs_in_is_not_deleted(house: House) -> None:
    made = await saved(house)
    job = await house.ask(
        "ada", "POST", "/jobs", {"kind": "command", "command": ["true"], "environment": "ada/vision:1"}
    )
    problem = await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=409)
    assert problem["link"] == f"/jobs/{job['id']}"
    async with house.parts.db.write() as session:
        (await session.get_one(t.Job, job["id"])).status = "Succeeded"
    await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=204)
    assert made["phase"] == "Saved"


async def test_a_version_under_a_running_save_is_not_deleted_and_one_with_children_is(house: House) -> None:
    await saved(house)
    child = await house.started("ada", "second", environment="ada/vision:1")
    begun = await house.ask("ada", "POST", f"/workspaces/{child['workspace_id']}/environments", {"name": "more"})
    house.serve("ada", "second", ready=False)
    async with house.parts.db.write() as session:
        (await session.get_one(t.Workspace, child["workspace_id"])).deleted_at = t.now()
    problem = await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=409)
    assert problem["link"] == "/environments/ada/more/versions/1"
    await house.settled(begun["id"])
    await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=204)
    assert (await house.ask("ada", "GET", "/environments/ada/more/versions/1"))["parent_ref"] == "ada/vision:1"


async def test_a_version_that_is_being_saved_is_not_deleted(house: House) -> None:
    plan = await house.started("ada")
    await house.ask("ada", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "vision"})
    assert (await house.ask("ada", "DELETE", f"{VISION}/versions/1", expect=409))["code"] == "save_running"
    assert (await house.ask("ada", "DELETE", VISION, expect=409))["code"] == "save_running"


async def test_a_registry_that_does_not_answer_is_asked_again(house: House) -> None:
    await saved(house)
    house.registry.fails = EngineUnavailable("The registry does not answer.")
    await house.ask("ada", "DELETE", VISION, expect=204)
    await house.turn()
    assert house.registry.deleted == []
    await house.turn()
    assert len(house.registry.deleted) == 1


async def test_a_registry_that_refuses_is_not_asked_for_ever(house: House) -> None:
    await saved(house)
    house.registry.fails = EngineError("Deleting is off.")
    await house.ask("ada", "DELETE", VISION, expect=204)
    await house.turn()
    assert (await house.rows(t.Version, t.Version.deleted_at.is_not(None)))[0].purged
