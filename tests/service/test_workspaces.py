"""Workspaces: what people ask becomes a row, the hub is asked by the reconciler, and its word becomes the status."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from himalia_services.hub import User
from himalia_services.parts import Parts
from himalia_services.reconcile import due, workspace
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import House, opened


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    async with opened(parts, hub) as house:
        yield house


async def make(house: House, name: str = "box", *, who: str = "ada", expect: int | None = 202, **more: object) -> dict:
    return await house.ask(who, "POST", "/workspaces", {"name": name, **more}, expect=expect)


# Make


async def test_a_new_workspace_is_a_row_at_once_and_the_hub_is_asked_after(house: House) -> None:
    answer = await house.send("ada", "POST", "/workspaces", {"name": "box", "display_name": "My box"})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["Location"] == f"/services/himalia/api/v1/workspaces/{made['id']}"
    assert (made["status"], made["name"], made["display_name"], made["machine"]) == (
        "Creating",
        "box",
        "My box",
        "small",
    )
    assert house.asked_of_hub("POST") == []
    await house.turn()
    assert house.asked_of_hub("POST") == ["/users/ada/servers/box"]
    await house.turn()
    assert house.asked_of_hub("POST") == ["/users/ada/servers/box"]


async def test_the_default_workspace_is_made_by_no_name(house: House) -> None:
    await make(house, "")
    await house.turn()
    assert house.asked_of_hub("POST") == ["/users/ada/server"]


async def test_a_workspace_that_is_not_to_start_is_not_started(house: House) -> None:
    made = await make(house, start=False)
    await house.turn()
    assert made["status"] == "Stopped"
    assert house.asked_of_hub("POST") == []


async def test_environment_and_machine_reach_the_spawner_whole(house: House) -> None:
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    await make(house, environment="ada/vision", machine="medium")
    await house.turn()
    assert house.hub.people["ada"].servers["box"].user_options == {"environment": "ada/vision:1", "machine": "medium"}
    plan = await house.plan("ada", "box", container=False, environment="ada/vision:1", machine="medium")
    assert (plan["environment"], plan["machine"]["name"]) == ("ada/vision:1", "medium")


async def test_a_plan_made_by_the_hub_alone_starts_what_was_asked_for(house: House) -> None:
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    made = await make(house, environment="ada/vision", start=False)
    plan = await house.plan("ada", "box", container=False)
    assert (plan["workspace_id"], plan["environment"]) == (made["id"], "ada/vision:1")


@pytest.mark.parametrize("name", ["Box", "2box", "a--b", "a_b", "x" * 31])
async def test_a_name_the_hub_would_refuse_is_refused_here(house: House, name: str) -> None:
    assert (await make(house, name, expect=422))["code"] == "workspace_name"


async def test_a_workspace_that_is_there_is_not_made_again(house: House) -> None:
    made = await make(house)
    problem = await make(house, expect=409)
    assert problem["link"] == f"/workspaces/{made['id']}"
    assert await house.ask("ada", "GET", problem["link"])
    await make(house, who="ben")


async def test_the_same_key_makes_one_workspace(house: House) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await house.ask("ada", "POST", "/workspaces", {"name": "box"}, headers=headers)
    assert (await house.ask("ada", "POST", "/workspaces", {"name": "box"}, headers=headers))["id"] == first["id"]
    await house.ask("ada", "POST", "/workspaces", {"name": "other"}, headers=headers, expect=422)


async def test_an_environment_or_machine_that_is_not_there_makes_no_workspace(house: House) -> None:
    await make(house, environment="ben/secret", expect=404)
    await make(house, machine="huge", expect=422)
    assert (await house.ask("ada", "GET", "/workspaces"))["items"] == []


# See


async def test_everybody_sees_their_own_and_admins_everybodys(house: House) -> None:
    mine, bens = await make(house), await make(house, who="ben")
    assert [w["id"] for w in (await house.ask("ada", "GET", "/workspaces"))["items"]] == [mine["id"]]
    assert {w["id"] for w in (await house.ask("root", "GET", "/workspaces", all="true"))["items"]} == {
        mine["id"],
        bens["id"],
    }
    await house.ask("ada", "GET", "/workspaces", all="true", expect=403)


@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop")])
async def test_somebody_elses_workspace_does_not_exist(house: House, method: str, rest: str) -> None:
    made = await make(house)
    await house.ask("ben", method, f"/workspaces/{made['id']}{rest}", expect=404)


async def test_a_workspace_has_its_addresses_on_its_persons_own_origin(house: House) -> None:
    shown = await house.workspace("ada", (await make(house))["id"])
    assert shown["urls"]["lab"] == "http://ada.himalia.localhost:18000/user/ada/box/lab"
    assert shown["urls"]["vscode"] == "http://ada.himalia.localhost:18000/user/ada/box/vscode/"
    assert shown["urls"]["tensorboard"] == "http://ada.himalia.localhost:18000/user/ada/box/tensorboard/"
    assert shown["urls"]["terminal"].startswith("http://ada.himalia.localhost:18000/user/ada/box/lab")


async def test_a_name_that_is_no_host_has_an_origin_all_the_same(house: House) -> None:
    house.hub.person("Ada.L@example.org")
    shown = await make(house, "", who="Ada.L@example.org")
    host, _, path = shown["urls"]["lab"].removeprefix("http://").partition("/")
    assert host.endswith(".himalia.localhost:18000")
    assert set(host.removesuffix(".himalia.localhost:18000")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert path == "user/Ada.L@example.org/lab"


# Start, stop, delete


async def test_start_and_stop_are_rows_first_and_calls_after(house: House) -> None:
    plan = await house.started("ada")
    path = f"/workspaces/{plan['workspace_id']}"
    assert (await house.ask("ada", "POST", f"{path}/stop", expect=202))["status"] == "Stopping"
    assert house.asked_of_hub("DELETE") == []
    await house.turn()
    assert house.asked_of_hub("DELETE") == ["/users/ada/server"]
    await house.turn()
    assert (await house.ask("ada", "GET", path))["status"] == "Stopped"
    assert (await house.ask("ada", "POST", f"{path}/start", expect=202))["status"] == "Starting"
    await house.turn()
    await house.turn()
    shown = await house.ask("ada", "GET", path)
    assert shown["status"] == "Running"
    assert [h["status"] for h in shown["status_history"]][-5:] == [
        "Running",
        "Stopping",
        "Stopped",
        "Starting",
        "Running",
    ]


async def test_a_start_right_after_a_stop_starts_when_the_stop_is_over(house: House) -> None:
    plan = await house.started("ada")
    path = f"/workspaces/{plan['workspace_id']}"
    await house.ask("ada", "POST", f"{path}/stop", expect=202)
    house.serve("ada", ready=False, pending="stop")
    await house.ask("ada", "POST", f"{path}/start", expect=202)
    await house.turn()
    assert (await house.ask("ada", "GET", path))["status"] == "Starting"
    house.serve("ada", ready=False)
    await house.turn()
    await house.turn()
    assert (await house.ask("ada", "GET", path))["status"] == "Running"


async def test_starting_what_runs_and_stopping_what_is_stopped_change_nothing(house: House) -> None:
    plan = await house.started("ada")
    path = f"/workspaces/{plan['workspace_id']}"
    assert (await house.ask("ada", "POST", f"{path}/start", expect=202))["status"] == "Running"
    await house.turn()
    assert house.asked_of_hub("POST") == []
    house.serve("ada", ready=False)
    await house.turn()
    assert (await house.ask("ada", "POST", f"{path}/stop", expect=202))["status"] == "Stopped"
    await house.turn()
    assert house.asked_of_hub("DELETE") == []


async def test_a_start_with_another_environment_is_refused_at_once(house: House) -> None:
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    problem = await house.ask(
        "ada", "POST", f"/workspaces/{plan['workspace_id']}/start", {"environment": "ada/vision"}, expect=409
    )
    assert problem["code"] == "other_environment"
    await house.ask(
        "ada", "POST", f"/workspaces/{plan['workspace_id']}/start", {"environment": "himalia/base"}, expect=202
    )


async def test_a_stop_before_the_hub_was_asked_to_start_ends_stopped(house: House) -> None:
    made = await make(house)
    await house.ask("ada", "POST", f"/workspaces/{made['id']}/stop")
    await house.turn()
    await house.turn()
    assert (await house.workspace("ada", made["id"]))["status"] == "Stopped"
    assert house.asked_of_hub("POST") == []


async def test_a_start_the_hub_refuses_is_failed_with_its_sentence(house: House) -> None:
    made = await make(house)
    house.hub.refuse("POST", "/servers/box", 500, "The image of this environment could not be built.")
    await house.turn()
    shown = await house.workspace("ada", made["id"])
    assert (shown["status"], shown["reason_code"]) == ("Failed", "server_failed")
    assert "could not be built" in shown["reason_message"]
    await house.ask("ada", "POST", f"/workspaces/{made['id']}/start")
    await house.turn()
    await house.turn()
    assert (await house.workspace("ada", made["id"]))["status"] == "Running"


async def test_the_spawners_own_words_about_a_failure_stay(house: House) -> None:
    made = await make(house)
    await house.phase(made["id"], "Failed", "server_failed", "jupyterlab ended with exit code 1.")
    house.hub.refuse("POST", "/servers/box", 500, "Internal server error")
    await house.turn()
    assert (await house.workspace("ada", made["id"]))["reason_message"] == "jupyterlab ended with exit code 1."


async def test_a_hub_that_does_not_answer_is_asked_again(house: House) -> None:
    made = await make(house)
    port = int(house.hub.url.rpartition(":")[2])
    await house.hub.stop()
    await house.turn()
    assert (await house.rows(t.Workspace, t.Workspace.id == made["id"]))[0].wanted == "start"
    await house.hub.start(port)
    await house.turn()
    await house.turn()
    assert (await house.workspace("ada", made["id"]))["status"] == "Running"


async def test_deleting_removes_server_row_and_private_saves(house: House) -> None:
    plan = await house.started("ada", "box")
    kept = await house.settled((await house.tell("preserve", {"workspace_id": plan["workspace_id"]}))["id"])
    path = f"/workspaces/{plan['workspace_id']}"
    assert (await house.ask("ada", "DELETE", path, expect=202))["status"] == "Deleting"
    await house.turn()
    assert "box" not in house.hub.people["ada"].servers
    await house.ask("ada", "GET", path, expect=404)
    await house.turn()
    assert house.registry.deleted == [(kept["image"]["repository"], kept["digest"])]
    assert (await make(house))["id"] != plan["workspace_id"]


async def test_a_deletion_the_hub_refuses_is_asked_for_again(house: House) -> None:
    plan = await house.started("ada", "box")
    path = f"/workspaces/{plan['workspace_id']}"
    await house.ask("ada", "DELETE", path, expect=202)
    house.hub.refuse("DELETE", "/servers/box", 400, "Cannot stop a server while it is being renamed")
    await house.turn()
    assert (await house.ask("ada", "GET", path))["status"] == "Deleting"
    await house.turn()
    assert "box" not in house.hub.people["ada"].servers
    await house.ask("ada", "GET", path, expect=404)


async def test_the_default_workspace_is_not_deleted(house: House) -> None:
    plan = await house.started("ada")
    assert (await house.ask("ada", "DELETE", f"/workspaces/{plan['workspace_id']}", expect=409))[
        "code"
    ] == "default_workspace"


async def test_a_workspace_that_is_being_saved_is_not_deleted(house: House) -> None:
    plan = await house.started("ada", "box")
    await house.ask("ada", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "vision"})
    problem = await house.ask("ada", "DELETE", f"/workspaces/{plan['workspace_id']}", expect=409)
    assert problem["link"] == "/environments/ada/vision/versions/1"


async def test_a_workspace_that_is_being_deleted_takes_no_other_orders(house: House) -> None:
    plan = await house.started("ada", "box")
    path = f"/workspaces/{plan['workspace_id']}"
    await house.ask("ada", "DELETE", path)
    await house.ask("ada", "POST", f"{path}/start", expect=409)
    await house.ask("ada", "POST", f"{path}/stop", expect=409)
    await house.ask("ada", "DELETE", path, expect=202)


# What the hub says


async def test_what_the_spawner_tells_is_the_status_with_its_reason(house: House) -> None:
    plan = await house.plan("ada", container=False)
    id = plan["workspace_id"]
    await house.phase(id, "Starting")
    assert (await house.workspace("ada", id))["started_at"] is None
    await house.phase(id, "Running")
    assert (await house.workspace("ada", id))["started_at"] is not None
    await house.phase(id, "Failed", "server_failed", "The workspace ran out of memory.")
    shown = await house.workspace("ada", id)
    assert (shown["status"], shown["reason_code"], shown["reason_message"]) == (
        "Failed",
        "server_failed",
        "The workspace ran out of memory.",
    )


async def test_a_word_that_comes_too_late_is_dropped(house: House) -> None:
    plan = await house.started("ada", "box")
    await house.ask("ada", "DELETE", f"/workspaces/{plan['workspace_id']}")
    await house.phase(plan["workspace_id"], "Running")
    assert (await house.workspace("ada", plan["workspace_id"]))["status"] == "Deleting"


async def test_a_server_deleted_at_the_hub_takes_its_workspace_along(house: House) -> None:
    plan = await house.started("ada", "box")
    await house.phase(plan["workspace_id"], "Deleting")
    await house.ask("ada", "GET", f"/workspaces/{plan['workspace_id']}", expect=404)
    await house.phase(plan["workspace_id"], "Stopped")


async def test_nonsense_about_a_workspace_is_refused(house: House) -> None:
    plan = await house.started("ada")
    await house.tell("phase", {"workspace_id": plan["workspace_id"], "status": "Flying"}, expect=422)
    await house.tell("phase", {"workspace_id": "ws-unknown", "status": "Running"}, expect=404)
    await house.tell("preserve", {"workspace_id": "ws-unknown"}, expect=404)
    await house.tell("versions/ver-unknown", method="GET", expect=404)


async def test_what_was_missed_is_learnt_from_the_hubs_list(house: House) -> None:
    plan = await house.started("ada")
    house.serve("ada", ready=False)
    await house.turn()
    assert (await house.workspace("ada", plan["workspace_id"]))["status"] == "Stopped"
    house.serve("ada", ready=False, pending="spawn")
    await house.turn()
    assert (await house.workspace("ada", plan["workspace_id"]))["status"] == "Starting"
    house.serve("ada", ready=False)
    await house.turn()
    shown = await house.workspace("ada", plan["workspace_id"])
    assert (shown["status"], shown["reason_code"]) == ("Failed", "server_failed")


async def test_one_question_to_the_hub_is_for_all_workspaces(house: House) -> None:
    for who in ("ada", "ben", "eve"):
        await house.started(who)
    before = len(house.asked_of_hub("GET"))
    await house.turn(workspace)
    assert house.asked_of_hub("GET")[before:] == ["/users"]


@pytest.mark.parametrize("ran", [True, False])
async def test_a_deletion_at_the_hub_that_nobody_told_is_learnt_and_frees_the_version(house: House, ran: bool) -> None:
    await house.save("ada", (await house.started("ada"))["workspace_id"], "vision")
    box = await house.plan("ada", "box", container=False, environment="ada/vision")
    house.serve("ada", "box")
    await house.phase(box["workspace_id"], *(["Running"] if ran else ["Failed", "server_failed", "It did not start."]))
    await house.ask("ada", "DELETE", "/environments/ada/vision/versions/1", expect=409)
    del house.hub.people["ada"].servers["box"]
    await house.turn()
    await house.ask("ada", "GET", f"/workspaces/{box['workspace_id']}", expect=404)
    await house.ask("ada", "DELETE", "/environments/ada/vision/versions/1")


@pytest.mark.parametrize("again", [True, False])
async def test_a_persons_workspaces_go_with_them_also_when_the_name_is_given_again(house: House, again: bool) -> None:
    ids = {(await house.started("ada", name))["workspace_id"] for name in ("", "box")}
    if again:
        house.hub.people["ada"].created = "2026-12-24T00:00:00.000000Z"
    else:
        del house.hub.people["ada"]
    await house.turn()
    rows = await house.rows(t.Workspace, t.Workspace.id.in_(ids))
    assert all(row.deleted_at is not None for row in rows)


async def test_somebody_the_hubs_list_passed_over_keeps_their_workspaces(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = await house.started("ada")
    monkeypatch.setattr(house.parts.hub, "users", _nobody)
    await house.turn()
    rows = await house.rows(t.Workspace, t.Workspace.id == plan["workspace_id"])
    assert rows[0].deleted_at is None


async def _nobody() -> list[User]:
    return []


async def test_a_named_workspace_that_never_started_waits_for_its_first_start(house: House) -> None:
    made = await make(house, start=False)
    await house.turn()
    assert (await house.workspace("ada", made["id"]))["status"] == "Stopped"


async def test_an_old_persons_order_never_reaches_a_new_persons_server(house: House) -> None:
    plan = await house.started("ada", "box")
    await house.ask("ada", "DELETE", f"/workspaces/{plan['workspace_id']}")
    house.hub.people["ada"].created = "2026-12-24T00:00:00.000000Z"
    await house.turn()
    assert "box" in house.hub.people["ada"].servers
    assert (await house.rows(t.Workspace, t.Workspace.id == plan["workspace_id"]))[0].deleted_at is not None


@pytest.mark.parametrize("point", ["workspace.start", "workspace.start.asked"])
async def test_an_order_killed_half_way_is_carried_out(
    house: House, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(house)

    class Killed(BaseException):
        pass

    def failpoint(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(workspace, "failpoint", failpoint)
        with pytest.raises((Killed, BaseExceptionGroup)):
            await house.turn(workspace)
    await house.restart()
    await due.free(house.parts.db, [t.Workspace])
    await house.turn()
    await house.turn()
    assert (await house.workspace("ada", made["id"]))["status"] == "Running"
