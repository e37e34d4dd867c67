"""The launch plan: what a start gets, what it is refused, and what a person's groups change."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import AsyncIterator

import pytest

from himalia_services.errors import EngineUnavailable
from himalia_services.parts import Parts
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import House, opened


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    async with opened(parts, hub) as house:
        yield house


async def test_a_plan_is_whole(house: House) -> None:
    plan = await house.plan("ada", container=False)
    workspace, prefix = plan["workspace_id"], house.parts.settings.prefix
    person = (await house.rows(t.Person, t.Person.name == "ada"))[0]
    assert plan == {
        "workspace_id": workspace,
        "container": f"{prefix}-{workspace}",
        "network": prefix,
        "image": {
            "repository": "himalia/base",
            "digest": "sha256:" + "a" * 64,
            "config_digest": "sha256:" + "a" * 63 + "0",
        },
        "environment": "himalia/base:1",
        "runs_as_you": "",
        "machine": {"name": "small", "cpu": 1.0, "memory_bytes": 2 << 30, "shm_bytes": 256 << 20},
        "mounts": [
            {"source": f"{prefix}-home-{person.id}", "target": "/home/jovyan", "read_only": False},
            {"source": plan["mounts"][1]["source"], "target": "/home/jovyan/shared/vision", "read_only": False},
        ],
        "mounts_hash": plan["mounts_hash"],
        "run_folder": str(house.parts.settings.workspaces_run / workspace),
        "labels": {
            "himalia.instance": house.parts.settings.instance,
            "himalia.kind": "workspace",
            "himalia.workspace": workspace,
            "himalia.image": "sha256:" + "a" * 63 + "0",
            "himalia.mounts": plan["mounts_hash"],
            "himalia.shm": str(256 << 20),
        },
        "env": {
            "HIMALIA_URL": house.parts.settings.internal_url,
            "HIMALIA_PUBLIC_URL": house.parts.settings.service_url,
            "HIMALIA_WORKSPACE": workspace,
            "HIMALIA_ENVIRONMENT": "himalia/base:1",
            "MEM_LIMIT": str(2 << 30),
            "CPU_LIMIT": "1",
        },
    }


async def test_the_same_server_gets_the_same_workspace_again(house: House) -> None:
    first = await house.plan("ada", container=False)
    assert await house.plan("ada") == first
    assert (await house.plan("ada", "second", container=False))["workspace_id"] != first["workspace_id"]
    assert (await house.plan("ben", container=False))["workspace_id"] != first["workspace_id"]


async def test_the_volumes_of_a_plan_exist_when_it_is_answered(house: House) -> None:
    plan = await house.plan("ada", container=False)
    assert set(house.engine.volumes) == {m["source"] for m in plan["mounts"]}
    assert {labels["himalia.kind"] for labels in house.engine.volumes.values()} == {"home", "group"}
    assert {labels["himalia.instance"] for labels in house.engine.volumes.values()} == {house.parts.settings.instance}


async def test_the_run_folder_is_readable_below_one_that_is_not(house: House) -> None:
    shutil.rmtree(house.parts.settings.run)
    plan = await house.plan("ada", container=False)
    assert stat.S_IMODE(os.stat(plan["run_folder"]).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(house.parts.settings.run).st_mode) == 0o700


async def test_an_engine_that_does_not_answer_is_no_plan(house: House) -> None:
    house.engine.fail("ensure_volume", EngineUnavailable("The engine does not answer."))
    problem = await house.plan("ada", container=False, expect=503)
    assert problem["code"] == "engine_unavailable"


async def test_nobody_but_the_hub_gets_a_plan(house: House) -> None:
    answer = await house.send("root", "POST", "/../../../internal/launch-plan", {})
    assert answer.status_code == 404
    body = {"user": "ada", "user_created": ""}
    house.parts.settings.home.joinpath("secrets", "internal-token").write_text("another")
    await house.tell("launch-plan", body, expect=401)


async def test_a_workspace_that_is_being_deleted_does_not_start(house: House) -> None:
    plan = await house.started("ada", "box")
    await house.ask("ada", "DELETE", f"/workspaces/{plan['workspace_id']}")
    assert (await house.plan("ada", "box", expect=409))["code"] == "deleting"


# The image


async def test_a_start_while_the_base_image_builds_is_told_how_far_it_is(house: House) -> None:
    await unbuild(house)
    progress = {
        "image": "base",
        "step": 3,
        "steps": 9,
        "message": "installing JupyterLab",
        "started_at": "",
        "error": None,
    }
    house.parts.settings.progress.write_text(json.dumps(progress))
    problem = await house.plan("ada", container=False, expect=503)
    assert problem["code"] == "image_building"
    assert problem["detail"] == "Building the base image: step 3 of 9, installing JupyterLab."
    assert problem["progress"] == progress


async def unbuild(house: House) -> None:
    async with house.parts.db.write() as session:
        for row in (await house.rows(t.Version)) + (await house.rows(t.Environment)):
            await session.delete(await session.get_one(type(row), row.id))
            await session.flush()
    house.parts.settings.built.unlink()


async def test_a_build_that_failed_is_told_as_it_failed(house: House) -> None:
    await unbuild(house)
    house.parts.settings.progress.write_text(json.dumps({"image": "base", "error": "debootstrap found no mirror."}))
    problem = await house.plan("ada", container=False, environment="himalia/base", expect=503)
    assert problem["detail"] == "The base image could not be built: debootstrap found no mirror."


async def test_before_any_progress_there_is_a_sentence_too(house: House) -> None:
    await unbuild(house)
    problem = await house.plan("ada", container=False, expect=503)
    assert "Try again" in problem["detail"]


async def test_an_image_that_was_just_built_is_used_without_a_restart(house: House) -> None:
    await unbuild(house)
    await house.plan("ada", container=False, expect=503)
    entry = {"repository": "himalia/base", "digest": "sha256:" + "b" * 64, "config_digest": "sha256:" + "c" * 64}
    house.parts.settings.built.write_text(json.dumps({"base": entry}))
    assert (await house.plan("ada", container=False))["image"] == entry


async def test_a_new_base_image_is_a_new_version_and_leaves_containers_as_they_are(house: House) -> None:
    old = await house.started("ada", environment="himalia/base")
    await house.build("b")
    await house.build("b")
    assert (await house.plan("ada", environment="himalia/base"))["image"] == old["image"]
    fresh = await house.plan("ben", container=False)
    assert fresh["environment"] == "himalia/base:2"
    # a new container of the same name without a number takes the newest
    assert (await house.plan("ada", environment="himalia/base", container=False))["environment"] == "himalia/base:2"


async def test_a_builder_that_writes_nonsense_changes_nothing(house: House) -> None:
    for nonsense in ("{", "[]", '{"base": 1}', '{"base": {"repository": "himalia/base", "digest": null}}'):
        house.parts.settings.built.write_text(nonsense)
        assert (await house.plan("ada", container=False))["environment"] == "himalia/base:1"


# The environment


async def saved(house: House, who: str = "ada", name: str = "vision", **share: object) -> str:
    plan = await house.started(who)
    version = await house.save(who, plan["workspace_id"], name)
    if share:
        await house.ask(who, "PATCH", f"/environments/{who}/{name}", share)
    return version["digest"]


async def test_another_environment_is_refused_while_there_is_a_container(house: House) -> None:
    await saved(house)
    problem = await house.plan("ada", environment="ada/vision:1", expect=409)
    assert problem["code"] == "other_environment"
    assert (
        problem["detail"]
        == "This workspace runs himalia/base:1. Save it, or open ada/vision:1 as a workspace of its own."
    )
    assert (await house.plan("ada"))["environment"] == "himalia/base:1"


async def test_without_a_container_another_environment_becomes_the_workspaces(house: House) -> None:
    digest = await saved(house)
    assert (await house.plan("ada", container=False, environment="ada/vision:1"))["image"]["digest"] == digest
    assert (await house.plan("ada"))["environment"] == "ada/vision:1"


async def test_a_container_that_is_not_mentioned_counts_as_there(house: House) -> None:
    await saved(house)
    person = house.hub.people["ada"]
    body = {
        "user": "ada",
        "user_created": person.created,
        "groups": ["vision"],
        "user_options": {"environment": "ada/vision:1"},
    }
    assert (await house.tell("launch-plan", body, expect=409))["code"] == "other_environment"


async def test_a_private_save_is_never_lost_to_another_environment(house: House) -> None:
    await saved(house)
    workspace = (await house.plan("ada"))["workspace_id"]
    begun = await house.tell("preserve", {"workspace_id": workspace})
    await house.settled(begun["id"])
    await house.tell("adopted", {"workspace_id": workspace})
    await house.plan("ada", container=False, environment="ada/vision:1", expect=409)


async def test_a_private_save_that_nobody_adopted_yet_is_not_given_another_environments_name(house: House) -> None:
    await saved(house)
    workspace = (await house.plan("ada"))["workspace_id"]
    kept = await house.settled((await house.tell("preserve", {"workspace_id": workspace}))["id"])
    problem = await house.plan("ada", container=False, environment="ada/vision:1", expect=409)
    assert problem["code"] == "other_environment"
    assert "himalia/base:1" in (await offered(house, "ada", container="false"))["locked"]
    plan = await house.plan("ada", container=False)
    assert (plan["environment"], plan["image"]["digest"]) == ("himalia/base:1", kept["digest"])


async def test_a_digest_names_an_environment_too(house: House) -> None:
    digest = await saved(house)
    plan = await house.plan("ada", "second", container=False, environment=digest)
    assert plan["image"]["digest"] == digest


@pytest.mark.parametrize("text", ["ada/nothing", "ada/vision:9", "nobody/vision", "sha256:" + "0" * 64])
async def test_an_environment_that_is_not_there_is_not_found(house: House, text: str) -> None:
    await saved(house)
    await house.plan("ada", "second", container=False, environment=text, expect=404)


async def test_an_environment_that_is_still_being_saved_cannot_be_started(house: House) -> None:
    workspace = (await house.started("ada"))["workspace_id"]
    await house.ask("ada", "POST", f"/workspaces/{workspace}/environments", {"name": "vision"})
    problem = await house.plan("ada", "second", container=False, environment="ada/vision:1", expect=409)
    assert "Committing" in problem["detail"]


async def test_somebody_elses_environment_says_whose_programs_run(house: House) -> None:
    await saved(house, visibility="everyone")
    assert (await house.plan("ben", container=False, environment="ada/vision"))[
        "runs_as_you"
    ] == "Made by ada; programs in it run as you."
    assert (await house.plan("ada", "second", container=False, environment="ada/vision"))["runs_as_you"] == ""


async def test_rights_are_asked_at_every_start(house: House) -> None:
    await saved(house, visibility="everyone")
    await house.started("ben", environment="ada/vision")
    await house.ask("ada", "PATCH", "/environments/ada/vision", {"visibility": "private"})
    problem = await house.plan("ben", expect=403)
    assert "Ask ada" in problem["detail"]
    assert (await house.plan("ben", environment="ada/vision:1", expect=403))["code"] == "not_shared"
    await house.ask("ada", "PATCH", "/environments/ada/vision", {"visibility": "people", "people": ["ben"]})
    assert (await house.plan("ben"))["environment"] == "ada/vision:1"


async def test_a_private_environment_of_somebody_else_does_not_exist(house: House) -> None:
    await saved(house)
    await house.plan("ben", container=False, environment="ada/vision", expect=404)


# The machine


async def test_another_machine_is_a_change_of_the_same_workspace(house: House) -> None:
    before = await house.started("ada")
    after = await house.plan("ada", machine="medium")
    assert after["machine"]["memory_bytes"] == 6 << 30
    assert after["env"]["MEM_LIMIT"] == str(6 << 30)
    assert (after["workspace_id"], after["mounts_hash"], after["image"]) == (
        before["workspace_id"],
        before["mounts_hash"],
        before["image"],
    )
    assert (await house.plan("ada"))["machine"]["name"] == "medium"


async def test_a_machine_that_is_not_offered_is_refused_with_those_that_are(house: House) -> None:
    problem = await house.plan("ada", container=False, machine="huge", expect=422)
    assert "small" in problem["detail"]


async def test_a_workspace_whose_machine_is_no_longer_offered_gets_the_default(house: House) -> None:
    plan = await house.started("ada", machine="medium")
    async with house.parts.db.write() as session:
        (await session.get_one(t.Workspace, plan["workspace_id"])).machine = "gone"
    assert (await house.plan("ada"))["machine"]["name"] == "small"


# Groups


async def test_a_group_joined_or_left_changes_the_mounts_and_their_hash(house: House) -> None:
    before = await house.started("ada")
    house.hub.people["ada"].groups = ["audio", "vision"]
    joined = await house.plan("ada")
    assert [m["target"] for m in joined["mounts"]] == [
        "/home/jovyan",
        "/home/jovyan/shared/audio",
        "/home/jovyan/shared/vision",
    ]
    house.hub.people["ada"].groups = []
    left = await house.plan("ada")
    assert [m["target"] for m in left["mounts"]] == ["/home/jovyan"]
    house.hub.people["ada"].groups = ["vision"]
    assert (await house.plan("ada"))["mounts_hash"] == before["mounts_hash"]
    assert len({p["mounts_hash"] for p in (before, joined, left)}) == 3


async def test_members_of_a_group_share_its_volume_and_nobody_elses_home(house: House) -> None:
    ada, ben = await house.plan("ada", container=False), await house.plan("ben", container=False)
    assert ada["mounts"][1] == ben["mounts"][1]
    assert ada["mounts"][0]["source"] != ben["mounts"][0]["source"]


async def test_a_group_of_any_name_is_one_folder_below_shared(house: House) -> None:
    house.hub.people["ada"].groups = ["../../etc", "..", ".ssh", "a b", "a/b", "视觉"]
    targets = [m["target"] for m in (await house.plan("ada", container=False))["mounts"][1:]]
    assert len(set(targets)) == 6
    for target in targets:
        assert target.startswith("/home/jovyan/shared/")
        assert "/" not in target.removeprefix("/home/jovyan/shared/")
        assert not target.removeprefix("/home/jovyan/shared/").startswith(".")


# People


async def test_a_person_of_the_same_name_gets_nothing_of_the_one_before(house: House) -> None:
    await saved(house)
    before = await house.plan("ada")
    house.hub.people["ada"].created = "2026-12-24T00:00:00.000000Z"
    after = await house.plan("ada", container=False)
    assert after["workspace_id"] != before["workspace_id"]
    assert after["mounts"][0]["source"] != before["mounts"][0]["source"]
    await house.plan("ada", "second", container=False, environment="ada/vision", expect=404)


async def test_the_same_moment_in_another_spelling_is_the_same_person(house: House) -> None:
    first = await house.plan("ada", container=False)
    house.hub.people["ada"].created = "2026-11-01T07:00:00+00:00"
    assert (await house.plan("ada"))["workspace_id"] == first["workspace_id"]


# The spawn page


async def test_the_spawn_page_offers_presets_mine_and_what_is_shared_with_me(house: House) -> None:
    await saved(house, name="mine")
    await saved(house, "ben", "bens", visibility="group", group="vision")
    await saved(house, "eve", "private")
    offer = await offered(house, "ada")
    assert [e["ref"] for e in offer["environments"]] == ["himalia/base", "ada/mine", "ben/bens"]
    assert [(e["preset"], e["mine"], e["runs_as_you"]) for e in offer["environments"]] == [
        (True, False, ""),
        (False, True, ""),
        (False, False, "Made by ben; programs in it run as you."),
    ]
    assert offer["environments"][2]["latest"]["ref"] == "ben/bens:1"
    assert [m["name"] for m in offer["machines"]] == ["small", "medium", "large"]


async def offered(house: House, user: str, server: str = "", **more: str) -> dict:
    person = house.hub.people[user]
    groups = ",".join(person.groups)
    return await house.tell(
        "options", method="GET", user=user, user_created=person.created, groups=groups, server=server, **more
    )


async def test_the_spawn_page_of_a_new_workspace_proposes_the_defaults(house: House) -> None:
    offer = await offered(house, "ada")
    assert (offer["environment"], offer["machine"], offer["locked"]) == ("himalia/base", "small", "")


async def test_the_spawn_page_of_a_workspace_with_a_container_says_that_its_environment_stays(house: House) -> None:
    await house.started("ada", machine="medium")
    offer = await offered(house, "ada")
    assert (offer["environment"], offer["machine"]) == ("himalia/base:1", "medium")
    assert "himalia/base:1" in offer["locked"]
    assert (await offered(house, "ada", container="false"))["locked"] == ""
    assert (await offered(house, "ada", "second"))["locked"] == ""
