"""Saving a workspace: rows, phases, what a crash or a refusal leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from himalia_services.engines.fake import Ends, Runs
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model.decide_version import ATTEMPTS, TRIES
from himalia_services.parts import Parts
from himalia_services.reconcile import due, version
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import NO_BOOT, PACKAGES, House, opened


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    async with opened(parts, hub) as house:
        yield house


def phases(shown: dict[str, Any]) -> list[str]:
    return [entry["status"] for entry in shown["status_history"]]


async def begin(
    house: House, name: str = "vision", *, workspace: str | None = None, who: str = "ada"
) -> dict[str, Any]:
    id = workspace or (await house.started(who))["workspace_id"]
    return await house.ask(
        who, "POST", f"/workspaces/{id}/environments", {"name": name, "note": "with scikit-learn"}, expect=202
    )


async def stored(house: House, id: str) -> t.Version:
    return (await house.rows(t.Version, t.Version.id == id))[0]


async def test_a_save_is_a_row_at_once_and_says_where_it_is(house: House) -> None:
    plan = await house.started("ada")
    answer = await house.send("ada", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "vision"})
    assert answer.status_code == 202
    assert answer.json()["phase"] == "Committing"
    assert answer.headers["Location"] == "/services/himalia/api/v1/environments/ada/vision/versions/1"
    assert house.engine.saves == []
    assert (await house.ask("ada", "GET", "/environments/ada/vision/versions/1"))["id"] == answer.json()["id"]


async def test_a_save_goes_through_its_phases_to_saved(house: House) -> None:
    plan = await house.started("ada")
    saved = await house.save("ada", plan["workspace_id"], "vision", note="with scikit-learn")
    assert phases(saved) == ["Committing", "Pushing", "Verifying", "Saved"]
    assert saved["ref"] == "ada/vision:1"
    assert saved["parent_ref"] == "himalia/base:1"
    assert saved["parent_digest"] == plan["image"]["digest"]
    assert saved["note"] == "with scikit-learn"
    assert saved["digest"] == saved["image"]["digest"]
    assert saved["saved_at"] is not None
    source, target = house.engine.saves[0]
    assert source.container == plan["container"]
    assert target.base.digest == plan["image"]["digest"]
    assert target.repository == saved["image"]["repository"]


async def test_the_trial_start_has_no_network_no_home_no_mounts_and_nobodys_token(house: House) -> None:
    house.engine.scripts["boot-check"] = Runs()
    version_id = (await begin(house))["id"]
    await house.turn()
    await house.turn()
    (seen,) = house.engine.workloads.values()
    assert seen.workload.id == "boot-" + version_id.removeprefix("ver-")
    assert (seen.workload.verb, seen.workload.network, seen.workload.home, seen.workload.mounts) == (
        "boot-check",
        "none",
        "tmpfs",
        (),
    )
    assert seen.workload.spec == {"timeout_seconds": 120, "env": {}}
    assert (await stored(house, version_id)).status == "Verifying"


async def test_what_is_installed_is_kept_with_the_version(house: House) -> None:
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    packages = await house.ask("ada", "GET", "/environments/ada/vision/versions/1/packages")
    assert packages["pip"] == [{"name": "numpy", "version": "2.3.0"}]
    assert len(packages["dpkg"]) == len(PACKAGES["dpkg"])


async def test_the_trial_container_is_gone_when_the_save_is_over(house: House) -> None:
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    assert house.engine.workloads == {}


async def test_a_kernel_that_is_broken_is_a_warning_and_not_a_failure(house: House) -> None:
    house.engine.scripts["boot-check"] = Ends(
        result={"ok": True, "warnings": ["kernel_broken: typing_extensions is too old"], "packages": {}}
    )
    plan = await house.started("ada")
    saved = await house.save("ada", plan["workspace_id"], "vision")
    assert saved["phase"] == "Saved"
    assert saved["warnings"] == ["kernel_broken: typing_extensions is too old"]


async def test_the_next_save_of_the_same_container_is_the_next_number_on_the_same_parent(house: House) -> None:
    plan = await house.started("ada")
    first = await house.save("ada", plan["workspace_id"], "vision")
    second = await house.save("ada", plan["workspace_id"], "vision")
    assert (first["number"], second["number"]) == (1, 2)
    assert second["parent_ref"] == "himalia/base:1"
    shown = await house.ask("ada", "GET", "/environments/ada/vision")
    assert shown["latest"]["number"] == 2
    assert [v["number"] for v in shown["versions"]] == [2, 1]


async def test_a_save_of_a_workspace_from_a_saved_environment_is_one_more_layer_on_that(house: House) -> None:
    plan = await house.started("ada")
    first = await house.save("ada", plan["workspace_id"], "vision")
    child = await house.started("ada", "second", environment="ada/vision:1")
    assert child["image"]["digest"] == first["digest"]
    second = await house.save("ada", child["workspace_id"], "more")
    assert second["parent_ref"] == "ada/vision:1"
    assert house.engine.saves[1][1].base.digest == first["digest"]


async def test_a_stopped_workspace_is_saved_as_well(house: House) -> None:
    plan = await house.started("ada")
    house.serve("ada", ready=False)
    await house.phase(plan["workspace_id"], "Stopping")
    await house.phase(plan["workspace_id"], "Stopped")
    saved = await house.save("ada", plan["workspace_id"], "vision")
    assert saved["phase"] == "Saved"
    assert (await house.ask("ada", "GET", f"/workspaces/{plan['workspace_id']}"))["status"] == "Stopped"


async def test_a_workspace_that_is_saved_stays_running_and_shows_its_newest_save(house: House) -> None:
    plan = await house.started("ada")
    await begin(house, workspace=plan["workspace_id"])
    shown = await house.ask("ada", "GET", f"/workspaces/{plan['workspace_id']}")
    assert shown["status"] == "Running"
    assert shown["latest_snapshot"]["ref"] == "ada/vision:1"


async def test_a_second_save_is_refused_with_a_link_to_the_first(house: House) -> None:
    plan = await house.started("ada")
    await begin(house, workspace=plan["workspace_id"])
    path = f"/workspaces/{plan['workspace_id']}/environments"
    problem = await house.ask("ada", "POST", path, {"name": "other"}, expect=409)
    assert problem["link"] == "/environments/ada/vision/versions/1"
    assert "ada/vision:1" in problem["detail"]
    assert await house.ask("ada", "GET", problem["link"])
    await house.ask("ada", "GET", "/environments/ada/other", expect=404)


async def test_two_saves_at_the_same_moment_are_one_save_and_one_refusal(house: House) -> None:
    plan = await house.started("ada")
    path = f"/workspaces/{plan['workspace_id']}/environments"
    answers = await asyncio.gather(*(house.send("ada", "POST", path, {"name": "vision"}) for _ in range(4)))
    assert sorted(a.status_code for a in answers) == [202, 409, 409, 409]


async def test_the_same_key_saves_once(house: House) -> None:
    plan = await house.started("ada")
    path, headers = f"/workspaces/{plan['workspace_id']}/environments", {"Idempotency-Key": "k1"}
    first = await house.ask("ada", "POST", path, {"name": "vision"}, headers=headers, expect=202)
    again = await house.ask("ada", "POST", path, {"name": "vision"}, headers=headers, expect=202)
    assert first["id"] == again["id"]


async def test_a_workspace_that_was_never_started_has_nothing_to_save(house: House) -> None:
    made = await house.ask("ada", "POST", "/workspaces", {"name": "box", "start": False}, expect=202)
    problem = await house.ask("ada", "POST", f"/workspaces/{made['id']}/environments", {"name": "vision"}, expect=409)
    assert "Start it first" in problem["detail"]


@pytest.mark.parametrize("name", ["Vision", "a b", "", "-a"])
async def test_a_name_an_environment_cannot_have_is_refused_with_the_rule(house: House, name: str) -> None:
    plan = await house.started("ada")
    problem = await house.ask(
        "ada", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": name}, expect=422
    )
    assert "small letters" in problem["detail"]


async def test_nobody_saves_somebody_elses_workspace(house: House) -> None:
    plan = await house.started("ada")
    await house.ask("ben", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "mine"}, expect=404)


async def test_an_admins_save_of_a_persons_workspace_is_that_persons_environment(house: House) -> None:
    plan = await house.started("ada")
    saved = await house.save("root", plan["workspace_id"], "vision")
    assert (saved["owner"], saved["created_by"]) == ("ada", "root")


# What goes wrong


async def test_a_failed_save_says_why_and_changes_nothing(house: House) -> None:
    plan = await house.started("ada")
    good = await house.save("ada", plan["workspace_id"], "vision")
    house.engine.fail_save(EngineError("The disk is full.", code="push_failed"))
    failed = await house.save("ada", plan["workspace_id"], "vision")
    assert (failed["phase"], failed["reason_code"], failed["reason_message"]) == (
        "Failed",
        "push_failed",
        "The disk is full.",
    )
    shown = await house.ask("ada", "GET", "/environments/ada/vision")
    assert shown["latest"]["digest"] == good["digest"]
    workspace = await house.ask("ada", "GET", f"/workspaces/{plan['workspace_id']}")
    assert (workspace["status"], workspace["environment"]) == ("Running", "himalia/base:1")
    assert (await house.save("ada", plan["workspace_id"], "vision"))["number"] == 3


@pytest.mark.parametrize(
    ("code", "reason"),
    [("workspace_gone", "workspace_gone"), ("commit_failed", "commit_failed"), ("something", "commit_failed")],
)
async def test_a_failed_save_has_a_stable_reason(house: House, code: str, reason: str) -> None:
    house.engine.fail_save(EngineError("No.", code=code))
    plan = await house.started("ada")
    assert (await house.save("ada", plan["workspace_id"], "vision"))["reason_code"] == reason


async def test_an_image_that_does_not_boot_is_failed_with_its_last_lines_and_taken_out_again(house: House) -> None:
    house.engine.scripts["boot-check"] = Ends(exit_code=1, result=NO_BOOT)
    plan = await house.started("ada")
    failed = await house.save("ada", plan["workspace_id"], "vision")
    assert failed["reason_code"] == "boot_check"
    assert "The server did not answer." in failed["reason_message"]
    assert "ImportError" in failed["reason_message"]
    await house.turn()
    assert house.registry.deleted == [(failed["image"]["repository"], failed["digest"])]
    assert failed["image"]["config_digest"] in house.engine.removed_images
    assert house.engine.workloads == {}
    await house.turn()
    assert len(house.registry.deleted) == 1


async def test_an_image_the_engine_will_not_start_is_failed(house: House) -> None:
    house.engine.fail("apply", EngineError("no such entrypoint"))
    plan = await house.started("ada")
    failed = await house.save("ada", plan["workspace_id"], "vision")
    assert failed["reason_code"] == "boot_check"
    assert "no such entrypoint" in failed["reason_message"]


@pytest.mark.parametrize("verb", ["save", "apply", "observe", "result", "remove"])
async def test_an_engine_that_does_not_answer_for_a_while_costs_time_and_nothing_else(house: House, verb: str) -> None:
    house.engine.fail(verb, EngineUnavailable("The engine does not answer."), times=2)
    plan = await house.started("ada")
    saved = await house.save("ada", plan["workspace_id"], "vision")
    assert saved["phase"] == "Saved"
    assert (await stored(house, saved["id"])).attempt == 1


async def test_an_engine_that_never_answers_again_ends_the_save(house: House) -> None:
    house.engine.fail("save", EngineUnavailable("The engine does not answer."), times=TRIES + 5)
    version_id = (await begin(house))["id"]
    failed = await house.until(
        lambda: house.tell(f"versions/{version_id}", method="GET"), lambda v: v["phase"] == "Failed", turns=TRIES + 2
    )
    assert failed["reason_code"] == "interrupted"
    assert len(house.engine.saves) == TRIES


# What a crash leaves


async def crash(house: House, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn until the failpoint `at` is reached, die there, and begin anew on what is left."""

    class Killed(BaseException):
        pass

    def failpoint(name: str) -> None:
        if name == at:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(version, "failpoint", failpoint)
        with pytest.raises((Killed, BaseExceptionGroup)) as died:
            await turns(house)
    assert died.errisinstance(Killed) or died.group_contains(Killed)
    await house.restart()


async def turns(house: House) -> None:
    for _ in range(6):
        await house.turn(version)


POINTS = ["version.committing", "version.pushed", "version.verifying", "version.booting", "version.concluding"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_save_killed_anywhere_goes_on_to_its_end(
    house: House, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_id = (await begin(house))["id"]
    await crash(house, point, monkeypatch)
    await free_leases(house)
    saved = await house.settled(version_id)
    assert saved["phase"] == "Saved"
    assert house.engine.workloads == {}
    boots = [count for (id, _), count in house.engine.starts.items() if id.startswith("boot-")]
    assert sum(boots) <= 2


async def free_leases(house: House) -> None:
    await due.free(house.parts.db, [t.Version])


async def test_a_lease_a_killed_process_left_keeps_others_off_until_it_runs_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_id = (await begin(house))["id"]
    await crash(house, "version.committing", monkeypatch)
    await house.turn()
    assert (await stored(house, version_id)).status == "Committing"
    assert house.engine.saves == []


async def test_a_save_killed_again_and_again_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    version_id = (await begin(house))["id"]
    for _ in range(ATTEMPTS):
        await crash(house, "version.pushed", monkeypatch)
        await free_leases(house)
    failed = await house.settled(version_id)
    assert (failed["phase"], failed["reason_code"]) == ("Failed", "interrupted")
    assert len(house.engine.saves) == ATTEMPTS


async def test_a_deletion_killed_half_way_is_finished(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await house.started("ada")
    saved = await house.save("ada", plan["workspace_id"], "vision")
    await house.ask("ada", "DELETE", "/environments/ada/vision", expect=204)
    await crash(house, "version.purging", monkeypatch)
    await free_leases(house)
    await house.turn()
    assert house.registry.deleted == [(saved["image"]["repository"], saved["digest"])]
    assert (await stored(house, saved["id"])).purged


async def test_a_result_of_a_lease_that_was_lost_is_dropped(house: House) -> None:
    version_id = (await begin(house))["id"]
    house.engine.may_save.clear()
    saving = asyncio.create_task(house.turn(version))
    await house.engine.saving.wait()
    async with house.parts.db.write() as session:
        row = await session.get_one(t.Version, version_id)
        row.lease = "somebody else"
    house.engine.may_save.set()
    await saving
    row = await stored(house, version_id)
    assert (row.status, row.digest, row.lease) == ("Committing", None, "somebody else")


# Private saves


async def test_a_private_save_is_in_no_list_and_becomes_the_containers_image(house: House) -> None:
    plan = await house.started("ada")
    begun = await house.tell("preserve", {"workspace_id": plan["workspace_id"]}, expect=202)
    again = await house.tell("preserve", {"workspace_id": plan["workspace_id"]}, expect=202)
    assert begun["id"] == again["id"]
    assert begun["image"] is None
    kept = await house.settled(begun["id"])
    await house.tell("adopted", {"workspace_id": plan["workspace_id"]}, expect=204)
    assert [e["ref"] for e in (await house.ask("ada", "GET", "/environments"))["items"]] == ["himalia/base"]
    await house.ask("ada", "GET", f"/environments/ada/workspace-{plan['workspace_id']}", expect=404)
    later = await house.plan("ada")
    assert later["image"] == kept["image"]
    assert later["environment"] == "himalia/base:1"


async def test_a_container_made_anew_is_saved_on_what_it_was_made_from(house: House) -> None:
    plan = await house.started("ada")
    kept = await preserved(house, plan["workspace_id"])
    saved = await house.save("ada", plan["workspace_id"], "vision")
    assert saved["parent_digest"] == kept["digest"]


async def preserved(house: House, workspace_id: str) -> dict[str, Any]:
    begun = await house.tell("preserve", {"workspace_id": workspace_id}, expect=202)
    kept = await house.settled(begun["id"])
    await house.tell("adopted", {"workspace_id": workspace_id}, expect=204)
    return kept


async def test_a_private_save_that_lost_its_word_is_found_when_the_container_is_gone(house: House) -> None:
    plan = await house.started("ada")
    begun = await house.tell("preserve", {"workspace_id": plan["workspace_id"]}, expect=202)
    kept = await house.settled(begun["id"])
    # killed between removing the old container and making the new one: nobody said "adopted"
    later = await house.plan("ada", container=False)
    assert later["image"] == kept["image"]


async def test_old_private_saves_go_and_the_one_in_use_stays(house: House) -> None:
    plan = await house.started("ada")
    first = await preserved(house, plan["workspace_id"])
    second = await preserved(house, plan["workspace_id"])
    await house.turn()
    assert house.registry.deleted == [(first["image"]["repository"], first["digest"])]
    assert (await house.plan("ada"))["image"] == second["image"]


async def test_a_private_save_waits_for_the_save_before_it(house: House) -> None:
    plan = await house.started("ada")
    mine = await begin(house, workspace=plan["workspace_id"])
    house.engine.may_save.clear()
    saving = asyncio.create_task(house.turn(version))
    await house.engine.saving.wait()
    private = await house.tell("preserve", {"workspace_id": plan["workspace_id"]}, expect=202)
    await version.step(house.parts, "another")
    assert len(house.engine.saves) == 1
    house.engine.may_save.set()
    await saving
    assert (await house.settled(private["id"]))["phase"] == "Saved"
    assert (await house.settled(mine["id"]))["phase"] == "Saved"
    assert len(house.engine.saves) == 2


async def test_an_adoption_without_a_private_save_is_refused(house: House) -> None:
    plan = await house.started("ada")
    await house.tell("adopted", {"workspace_id": plan["workspace_id"]}, expect=409)


async def test_the_same_bytes_saved_twice_lose_nothing_when_one_is_deleted(house: House) -> None:
    plan = await house.started("ada")
    first = await house.save("ada", plan["workspace_id"], "vision")
    second = await house.save("ada", plan["workspace_id"], "vision")
    async with house.parts.db.write() as session:
        row = await session.get_one(t.Version, second["id"])
        row.digest, row.config_digest = first["image"]["digest"], first["image"]["config_digest"]
    await house.ask("ada", "DELETE", "/environments/ada/vision/versions/1", expect=204)
    await house.turn()
    assert house.registry.deleted == []
    assert house.engine.removed_images == []
