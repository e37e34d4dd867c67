"""A workspace starts by its plan, whatever the control plane says or does not say; a real spawner class, a scripted control plane."""

from __future__ import annotations

import asyncio
import json
import types
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.spawner import Spawner
from tornado import web

from himalia_spawner.mixin import Ended, WorkspaceMixin
from himalia_spawner.place import Place
from himalia_spawner.plan import PlanService
from himalia_spawner.refusal import NotStarted
from scripted_control import TOKEN, ScriptedControl, plan, refusal


class Recorded(Spawner):
    """A spawner below the mixin that starts nothing and remembers."""

    started = 0
    stopped = 0
    refuses_stop = False

    async def start(self) -> Any:
        self.started += 1
        return "192.0.2.7", 8888

    async def stop(self, now: bool = False) -> None:
        self.stopped += 1
        if self.refuses_stop:
            raise RuntimeError("the engine does not answer")

    async def poll(self) -> Any:
        return None


class Workspace(WorkspaceMixin, Recorded):
    """An engine that has what the test says it has."""

    has_container = False
    remake = False
    end: Ended | None = None
    discarded = 0

    def settle(self, plan: dict[str, Any]) -> None:
        self.image_seen = plan["image"]["config_digest"]

    async def exists(self) -> bool:
        return self.has_container

    async def fit(self, plan: dict[str, Any]) -> dict[str, Any]:
        return await self.preserve(plan) if self.remake else plan

    async def ended(self) -> Ended | None:
        return self.end

    async def discard(self) -> None:
        self.discarded += 1


@pytest.fixture
def control():
    return ScriptedControl()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "run").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "internal-token").write_text(TOKEN)
    return Place(home=tmp_path, port=18000, domain="himalia.localhost", gateway="192.0.2.1")


@pytest.fixture
def row() -> Iterator[orm.Spawner]:
    """Ada's default server as the hub keeps it, in a database of its own."""
    with orm.new_session_factory("sqlite://")() as session:
        ada = orm.User(name="ada", created=datetime(2026, 11, 23, 12, 0, 0))
        spawner = orm.Spawner(name="", user=ada)
        session.add_all([ada, orm.Group(name="vision", users=[ada]), spawner])
        session.commit()
        yield spawner
        session.get_bind().dispose()


@pytest.fixture
def workspace(place: Place, row: orm.Spawner) -> Workspace:
    hub = types.SimpleNamespace(public_host="", api_url="http://192.0.2.1:18081/hub/api", base_url="/hub/")
    user = types.SimpleNamespace(
        name="ada",
        escaped_name="ada",
        created=row.user.created,
        admin=False,
        groups=row.user.groups,
        url="/user/ada/",
    )
    spawner = Workspace(
        user=user,
        hub=hub,
        place=place,
        plans=PlanService(place.internal_socket, place.home / "secrets" / "internal-token"),
        orm_spawner=row,
        oauth_client_id="jupyterhub-user-ada",
        wait_seconds=0.01,
        outage_seconds=0.05,
    )
    spawner.api_token = "the-token-of-this-start"
    return spawner


@asynccontextmanager
async def answering(control: ScriptedControl, workspace: Workspace):
    async with control.serve(workspace.place.internal_socket):
        yield


async def test_a_start_writes_environment_and_command_into_the_mounted_folder(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    async with answering(control, workspace):
        assert await workspace.start() == ("192.0.2.7", 8888)
    file = Path(workspace.plan["run_folder"]) / "environment.json"
    written = json.loads(file.read_text())
    assert written["argv"] == ["jupyterhub-singleuser"]
    assert written["env"]["JUPYTERHUB_API_TOKEN"] == "the-token-of-this-start"
    assert written["env"]["HIMALIA_URL"] == "http://192.0.2.1:8082/services/himalia"
    assert file.stat().st_mode & 0o777 == 0o444
    assert file.parent.stat().st_mode & 0o777 == 0o755


async def test_nothing_goes_into_the_containers_env(workspace):
    workspace.environment = {"OPERATORS": "too"}
    assert workspace.get_env() == {}
    assert workspace.server_env()["OPERATORS"] == "too"


async def test_the_file_is_written_anew_at_each_start(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    async with answering(control, workspace):
        await workspace.start()
        workspace.api_token = "the-token-of-the-next-start"
        await workspace.start()
    written = json.loads((Path(workspace.plan["run_folder"]) / "environment.json").read_text())
    assert written["env"]["JUPYTERHUB_API_TOKEN"] == "the-token-of-the-next-start"


async def test_the_plan_is_asked_for_by_person_groups_and_server(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    workspace.user_options = {"environment": "ada/vision:3", "machine": "small"}
    async with answering(control, workspace):
        await workspace.start()
    assert control.calls("/internal/launch-plan") == [
        {
            "user": "ada",
            "user_created": "2026-11-23T12:00:00Z",
            "admin": False,
            "groups": ["vision"],
            "server": "",
            "display_name": "",
            "user_options": {"environment": "ada/vision:3", "machine": "small"},
            "container": True,
        }
    ]


async def test_a_container_that_is_gone_is_said_to_be_gone(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    workspace.load_state({"plan": plan(workspace.place.home)})
    async with answering(control, workspace):
        await workspace.start()
    assert control.calls("/internal/launch-plan")[0]["container"] is False


@pytest.mark.parametrize(
    "options", [{"image": "evil:latest"}, {"environment": ["a", "b"]}, {"machine": 7}, {"environment": "x" * 500}]
)
async def test_options_that_are_not_ours_start_nothing(control, workspace, options):
    control.plans = [(200, plan(workspace.place.home))]
    workspace.user_options = options
    async with answering(control, workspace):
        with pytest.raises(NotStarted) as refused:
            await workspace.start()
    assert refused.value.status_code == 422
    assert workspace.started == 0
    assert control.asked == []


async def test_another_environment_is_refused_with_the_control_planes_sentence(control, workspace):
    sentence = "This workspace runs himalia/base:1. Save it, or open ada/vision:3 as a workspace of its own."
    control.plans = [refusal(409, "other_environment", sentence)]
    async with answering(control, workspace):
        with pytest.raises(NotStarted) as refused:
            await workspace.start()
    assert (refused.value.status_code, refused.value.reason, refused.value.message) == (
        409,
        "other_environment",
        sentence,
    )
    assert workspace.started == 0


async def test_a_start_waits_for_its_image_and_shows_the_build(control, workspace):
    building = {"image": "base", "step": 2, "steps": 8, "message": "Building VS Code", "error": None}
    control.plans = [refusal(503, "image_building", "not yet", progress=building)] * 2 + [
        (200, plan(workspace.place.home))
    ]
    async with answering(control, workspace):
        await workspace.start()
        events = workspace.progress()
        first = await anext(events)
        await events.aclose()
    assert first == {
        "message": "Building the image of this environment: Building VS Code (step 2 of 8)",
        "progress": 17,
    }
    assert workspace.started == 1


async def test_a_build_that_failed_fails_the_start_with_its_reason(control, workspace):
    broken = {"image": "base", "step": 2, "steps": 8, "message": "", "error": "npm answered 404"}
    control.plans = [refusal(503, "image_building", "not yet", progress=broken)]
    async with answering(control, workspace):
        with pytest.raises(NotStarted, match="npm answered 404"):
            await workspace.start()


async def test_with_the_control_plane_away_a_workspace_starts_as_it_last_was(workspace):
    last = plan(workspace.place.home)
    workspace.load_state({"plan": last})
    await workspace.start()
    assert workspace.started == 1
    assert workspace.plan == last
    assert json.loads((Path(last["run_folder"]) / "environment.json").read_text())["env"]["MEM_LIMIT"] == "1073741824"


async def test_with_the_control_plane_away_a_folder_of_a_group_that_was_left_is_not_mounted_again(workspace):
    workspace.load_state({"plan": plan(workspace.place.home, groups=["vision", "left"])})
    with pytest.raises(NotStarted, match="not in left any more"):
        await workspace.start()
    assert workspace.started == 0


async def test_with_the_control_plane_away_a_first_start_says_so(workspace):
    with pytest.raises(NotStarted) as refused:
        await workspace.start()
    assert (refused.value.status_code, refused.value.reason) == (503, "control_plane_away")
    assert workspace.started == 0


async def test_a_control_plane_that_is_only_starting_counts_as_away(control, workspace):
    workspace.load_state({"plan": plan(workspace.place.home)})
    control.plans = [refusal(503, "unavailable", "starting")]
    async with answering(control, workspace):
        await workspace.start()
    assert workspace.started == 1


async def test_the_plan_survives_stop_and_a_restart_of_the_hub(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    async with answering(control, workspace):
        await workspace.start()
        await workspace.stop()
    workspace.clear_state()
    assert workspace.get_state()["plan"]["workspace_id"] == "ws-00000000000a"
    assert workspace.orm_spawner.state["plan"] == workspace.plan


async def test_changes_are_kept_before_a_container_is_made_anew(control, workspace):
    saved = {"repository": "env/p-1/env-1", "digest": "sha256:" + "1" * 64, "config_digest": "sha256:" + "2" * 64}
    control.plans = [(200, plan(workspace.place.home))]
    control.versions = [
        (200, {"id": "ver-1", "phase": "Pushing", "progress_bytes": 3 * 2**20}),
        (200, {"id": "ver-1", "phase": "Saved", "image": saved}),
    ]
    workspace.remake = True
    async with answering(control, workspace):
        await workspace.start()
    assert workspace.image_seen == saved["config_digest"]
    assert workspace.started == 1


async def test_what_cannot_be_kept_is_not_thrown_away(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    control.versions = [(200, {"id": "ver-1", "phase": "Failed", "reason_message": "the disk is full"})]
    workspace.remake = True
    async with answering(control, workspace):
        with pytest.raises(NotStarted, match="the disk is full"):
            await workspace.start()
    assert workspace.started == 0
    assert workspace.discarded == 0


async def test_stop_never_raises(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    workspace.refuses_stop = True
    async with answering(control, workspace):
        await workspace.start()
        await workspace.stop()
        await workspace.run_post_stop_hook()
    assert workspace.stopped == 1
    assert control.phases() == ["Starting", "Stopping", "Stopped"]


async def test_a_server_that_died_is_reported_with_its_last_lines(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    workspace.end = Ended(clean=False, sentence="The workspace ran out of memory.", log="last line")
    async with answering(control, workspace):
        await workspace.start()
        await workspace.run_post_stop_hook()
    last = control.calls("/internal/phase")[-1]
    assert (last["status"], last["reason_code"]) == ("Failed", "server_failed")
    assert last["reason_message"] == "The workspace ran out of memory.\nlast line"


async def test_a_server_that_was_shut_down_from_inside_is_stopped_not_failed(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    workspace.end = Ended(clean=True, sentence="", log="")
    async with answering(control, workspace):
        await workspace.start()
        await workspace.run_post_stop_hook()
    assert control.phases()[-1] == "Stopped"


@pytest.mark.parametrize(("outcome", "status"), [(None, "Running"), (TimeoutError("no answer"), "Failed")])
async def test_the_outcome_of_a_start_is_reported_when_the_hub_knows_it(control, workspace, outcome, status):
    control.plans = [(200, plan(workspace.place.home))]
    future = asyncio.get_running_loop().create_future()
    workspace._spawn_future = future
    async with answering(control, workspace):
        await workspace.start()
        assert control.phases() == ["Starting"]
        if outcome is None:
            future.set_result(None)
        else:
            future.set_exception(outcome)
        async with asyncio.timeout(5):
            while len(control.phases()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert control.phases() == ["Starting", status]


async def test_steps_are_told_to_those_who_look_late(workspace):
    workspace._steps.say("one", 1)
    workspace._steps.say("one", 1)
    workspace._steps.say("two", 2)
    events = workspace.progress()
    seen = [(await anext(events))["message"], (await anext(events))["message"]]
    await events.aclose()
    assert seen == ["one", "two"]


async def test_delete_forever_removes_container_and_run_folder(control, workspace):
    control.plans = [(200, plan(workspace.place.home))]
    async with answering(control, workspace):
        await workspace.start()
        folder = Path(workspace.plan["run_folder"])
        await workspace.delete_forever()
    assert workspace.discarded == 1
    assert not folder.exists()  # noqa: ASYNC240
    assert control.phases()[-1] == "Deleting"
    assert "plan" not in workspace.get_state()


async def test_a_link_only_preselects(workspace):
    with pytest.raises(NotStarted) as asked:
        workspace.options_from_query({"environment": ["mallory/trap"]})
    assert asked.value.status_code == 200


async def test_rename_is_refused_with_a_sentence(workspace):
    with pytest.raises(web.HTTPError, match="keeps its name"):
        await workspace.rename("a", "b")


def test_a_fresh_token_each_start_so_that_scopes_survive(workspace):
    assert workspace.will_resume is False
