"""Jobs from submit to their end: what a person sees, what is run, and what is left."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update

from himalia_services.app import SERVICE_PATH
from himalia_services.engines.fake import Ends, IgnoresTerm, Runs, SlowToStart
from himalia_services.errors import EngineError
from himalia_services.model.workload import Mount, WorkloadId
from himalia_services.parts import Parts
from himalia_services.reconcile import job
from himalia_services.store import tables as t
from service.assertions import assert_problem
from service.conftest import ClientFor
from service.fakehub import ENTER, FakeHub
from service.house import eventually
from service.jobhouse import FOLDER, JobHouse, attempt, digest, joined, opened, packed, statuses


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[JobHouse]:
    async with opened(parts, hub) as house:
        yield house


# Submit


async def test_a_submit_is_a_row_in_the_queue_at_once_and_nothing_runs_yet(house: JobHouse) -> None:
    answer = await house.send(
        "ada", "POST", "/jobs", {"kind": "command", "environment": "himalia/base", "command": ["make", "it"]}
    )
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["Location"] == f"{SERVICE_PATH}/api/v1/jobs/{made['id']}"
    assert made["status"] == "Queuing"
    assert statuses(made) == ["Creating", "Queuing"]
    assert made["queue_position"] == 1
    assert (made["command"], made["display_name"], made["attempt"]) == (["make", "it"], "make it", 1)
    assert (made["environment"], made["digest"]) == ("himalia/base:1", f"sha256:{'a' * 64}")
    assert made["machine"] == "small"
    assert house.engine.calls == []


async def test_the_environment_is_pinned_at_submit(house: JobHouse) -> None:
    first = await house.submit()
    await house.build("b")
    second = await house.submit()
    assert (first["environment"], second["environment"]) == ("himalia/base:1", "himalia/base:2")
    await house.work()
    assert house.workload(first["id"]).workload.image.digest == f"sha256:{'a' * 64}"
    by_digest = await house.submit(environment=f"sha256:{'a' * 64}")
    assert by_digest["environment"] == "himalia/base:1"


async def test_what_is_run_is_the_pack_in_its_place_with_home_and_groups_twice(house: JobHouse) -> None:
    made = await house.submit(
        files={"train.py": b"print()"},
        kind="script",
        command=[],
        script="train.py",
        arguments=["-v"],
        env={"A": "1", "HIMALIA_JOB": "x"},
        machine="large",
    )
    await house.work()
    seen = house.workload(made["id"])
    prefix = house.parts.settings.prefix
    (person,) = await house.rows(t.Person, t.Person.name == "ada")
    home = f"{prefix}-home-{person.id}"
    (group,) = (name for name in house.engine.volumes if "-group-" in name)
    assert seen.workload.mounts == (
        Mount(source=home, target="/home/jovyan"),
        Mount(source=group, target="/home/jovyan/shared/vision"),
        Mount(source=home, target="/run/himalia/live/home"),
        Mount(source=group, target="/run/himalia/live/shared/vision"),
    )
    assert house.engine.volumes[home] == {"himalia.instance": house.parts.settings.instance, "himalia.kind": "home"}
    assert seen.pack == packed({"train.py": b"print()"})
    assert seen.workload.input is not None
    assert seen.workload.input.path == FOLDER
    spec: dict[str, Any] = dict(seen.workload.spec)
    assert (spec["argv"], spec["cwd"], spec["kind"]) == (["python", "train.py", "-v"], FOLDER, "script")
    assert spec["env"]["A"] == "1"
    assert spec["env"]["HIMALIA_JOB"] == made["id"]
    machine = house.parts.catalog.machine("large")
    assert (seen.workload.resources.cpu, seen.workload.resources.memory_bytes) == (machine.cpu, machine.memory_bytes)
    assert seen.workload.network == "default"


async def test_nothing_in_a_job_is_anybodys_token(house: JobHouse) -> None:
    made = await house.submit()
    await house.work()
    spec = json.dumps(house.workload(made["id"]).workload.spec)
    assert "token" not in spec.lower()
    assert house.token("ada") not in spec


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"command": []}, 422, "kind"),
        ({"machine": "galaxy"}, 422, "machine_unknown"),
        ({"environment": "ada/nothing"}, 404, "environment_not_found"),
        ({"environment": "himalia/base:9"}, 404, "version_not_found"),
        ({"max_run_seconds": 0}, 422, "max_run_seconds"),
        ({"input": {"digest": f"sha256:{'0' * 64}", "path": FOLDER}}, 422, "input_gone"),
        ({"input": {"digest": f"sha256:{'0' * 64}", "path": "/etc"}}, 422, "input_path"),
        ({"kind": "dream"}, 422, None),
    ],
)
async def test_a_request_that_cannot_run_is_refused_with_a_sentence_and_leaves_nothing(
    house: JobHouse, more: dict[str, Any], status: int, code: str | None
) -> None:
    body = {"kind": "command", "environment": "himalia/base", "command": ["make"], **more}
    answer = await house.send("ada", "POST", "/jobs", body)
    assert answer.status_code == status
    if code is not None:
        assert_problem(answer, status, code)
    assert await house.rows(t.Job) == []


async def test_one_persons_pack_is_no_input_of_another(house: JobHouse) -> None:
    pack = packed({"secret.py": b"1"})
    await house.upload("ada", pack)
    body = {
        "kind": "command",
        "environment": "himalia/base",
        "command": ["make"],
        "input": {"digest": digest(pack), "path": FOLDER},
    }
    assert_problem(await house.send("ben", "POST", "/jobs", body), 422, "input_gone")


async def test_the_same_key_and_body_make_one_job_and_another_body_is_refused(house: JobHouse) -> None:
    body = {"kind": "command", "environment": "himalia/base", "command": ["make"]}
    key = {"Idempotency-Key": "one"}
    first, second = [await house.ask("ada", "POST", "/jobs", body, headers=key) for _ in range(2)]
    assert first["id"] == second["id"]
    assert len(await house.rows(t.Job)) == 1
    answer = await house.send("ada", "POST", "/jobs", {**body, "command": ["other"]}, headers=key)
    assert_problem(answer, 422, "idempotency_key_reused")


async def test_jobs_are_their_owners_and_admins(house: JobHouse) -> None:
    made = await house.submit()
    for method, path in [
        ("GET", ""),
        ("POST", "/stop"),
        ("DELETE", ""),
        ("GET", "/log"),
        ("GET", "/outputs"),
        ("GET", "/outputs.tar.gz"),
    ]:
        assert_problem(await house.send("eve", method, f"/jobs/{made['id']}{path}"), 404, "job_not_found")
    assert (await house.ask("eve", "GET", "/jobs"))["items"] == []
    assert (await house.send("eve", "GET", "/jobs", all="true")).status_code == 403
    assert [item["id"] for item in (await house.ask("root", "GET", "/jobs", all="true"))["items"]] == [made["id"]]
    assert (await house.job(made["id"], "root"))["owner"] == "ada"


async def test_the_list_is_newest_first_by_status_and_in_pages(house: JobHouse) -> None:
    ids = [(await house.submit())["id"] for _ in range(3)]
    await house.ask("ada", "POST", f"/jobs/{ids[0]}/stop")
    assert [item["id"] for item in (await house.ask("ada", "GET", "/jobs"))["items"]] == ids[::-1]
    assert [item["id"] for item in (await house.ask("ada", "GET", "/jobs", status=["Stopped", "Failed"]))["items"]] == [
        ids[0]
    ]
    first = await house.ask("ada", "GET", "/jobs", limit=2)
    rest = await house.ask("ada", "GET", "/jobs", limit=2, page_token=first["next_token"])
    assert [item["id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next_token"] is None


async def test_a_token_needs_the_scope(house: JobHouse, client_for: ClientFor) -> None:
    made = await house.submit()
    reader = client_for("ada", scopes=[ENTER, "custom:himalia:jobs:read!user"])
    assert (await reader.get(f"/jobs/{made['id']}")).status_code == 200
    assert (await reader.post(f"/jobs/{made['id']}/stop")).status_code == 403
    assert (await reader.put(f"/inputs/{digest(b'')}", content=b"")).status_code == 403
    assert (
        await client_for("ada", scopes=[ENTER, "custom:himalia:environments:read!user"]).get("/jobs")
    ).status_code == 403


# Run


async def test_a_job_goes_through_its_states_and_ends_with_log_exit_code_and_outputs(house: JobHouse) -> None:
    made = await house.submit(files={"train.py": b"old", "data.txt": b"data"})
    await house.work()
    running = await house.job(made["id"])
    assert running["status"] == "Running"
    assert running["started_at"] is not None
    assert running["queue_position"] is None
    id = attempt(made["id"])
    house.engine.write(
        id,
        b"epoch 1\n",
        {"train.py": b"new", "model/m.bin": b"\0\1", "__pycache__/x.pyc": b"x", "nb/.ipynb_checkpoints/n": b"x"},
    )
    house.engine.finish(id, 0)
    done = await house.over(made["id"])
    assert done["status"] == "Succeeded"
    assert statuses(done) == ["Creating", "Queuing", "EnvPreparing", "Running", "Succeeded"]
    assert (done["exit_code"], done["reason_code"], done["log_bytes"]) == (0, "", 8)
    assert done["finished_at"] is not None
    assert await house.log(made["id"]) == "epoch 1\n"
    assert await house.outputs(made["id"]) == {"train.py": ("changed", b"new"), "model/m.bin": ("new", b"\0\1")}
    assert (done["outputs"], done["output_bytes"]) == (2, 5)
    assert house.engine.workloads == {}


@pytest.mark.parametrize(
    ("script", "status", "code", "exit_code"),
    [
        (Ends(0), "Succeeded", "", 0),
        (Ends(3), "Failed", "container_exited_with_error", 3),
        (Ends(137, oom_killed=True, result={}), "Failed", "out_of_memory", 137),
        (Ends(127, result={"error": "pyhton is not on PATH."}), "Failed", "start_failed", 127),
    ],
)
async def test_every_end_has_its_reason_and_its_outputs(
    house: JobHouse, script: Ends, status: str, code: str, exit_code: int
) -> None:
    script.files, script.log = {"made.txt": b"made"}, b"said"
    house.engine.script = script
    done = await house.over((await house.submit(files={"a": b"a"}))["id"])
    assert (done["status"], done["reason_code"], done["exit_code"]) == (status, code, exit_code)
    assert bool(done["reason_message"]) == (status == "Failed")
    assert "Running" in statuses(done)
    assert await house.log(done["id"]) == "said"
    assert await house.outputs(done["id"]) == {"made.txt": ("new", b"made")}


async def test_a_job_without_a_folder_works_in_an_empty_one_and_what_it_makes_there_is_kept(house: JobHouse) -> None:
    house.engine.script = Ends(0, files={"made.txt": b"made"})
    done = await house.over((await house.submit())["id"])
    assert done["working_dir"] == "/job/work"
    assert await house.outputs(done["id"]) == {"made.txt": ("new", b"made")}


async def test_one_slot_jobs_run_one_after_the_other_in_the_order_they_came(house: JobHouse) -> None:
    ids = [(await house.submit(who))["id"] for who in ("ada", "ben", "ada")]
    for turn, id in enumerate(ids):
        await house.work(2)
        places = [(await house.job(other, "root"))["queue_position"] for other in ids[turn + 1 :]]
        assert places == list(range(1, len(places) + 1))
        assert house.engine.live() == {attempt(id)}
        house.engine.finish(attempt(id))
    await house.work(2)
    assert house.engine.workloads == {}
    assert [count for _, count in sorted(house.engine.starts.items())] == [1, 1, 1]


async def test_the_next_job_starts_at_once_when_one_ends(house: JobHouse) -> None:
    house.engine.script = Ends(0)
    ids = [(await house.submit())["id"] for _ in range(2)]
    await house.work()
    assert (await house.job(ids[0]))["status"] == "Succeeded"
    # no timer has run out: the end of the first made the second due
    await job.step(house.parts, "test")
    assert (await house.job(ids[1]))["status"] == "Succeeded"


async def test_a_job_that_takes_its_time_to_start_is_being_prepared(house: JobHouse) -> None:
    house.engine.script = SlowToStart()
    made = await house.submit()
    await house.work(2)
    assert (await house.job(made["id"]))["status"] == "EnvPreparing"
    house.engine.start(attempt(made["id"]))
    await house.work()
    assert (await house.job(made["id"]))["status"] == "Running"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("The image is no longer in the registry.", code="image_gone"), "image_gone"),
        (EngineError("The input is no longer kept.", code="input_gone"), "input_gone"),
        (EngineError("Docker says: no space left on device"), "start_failed"),
    ],
)
async def test_what_cannot_start_fails_with_the_engines_sentence_and_frees_the_slot(
    house: JobHouse, error: EngineError, code: str
) -> None:
    house.engine.fail("apply", error)
    failed, next_one = await house.submit(), await house.submit()
    done = await house.over(failed["id"])
    assert (done["status"], done["reason_code"], done["reason_message"]) == ("Failed", code, error.detail)
    await house.work()
    assert (await house.job(next_one["id"]))["status"] == "Running"
    assert house.engine.live() == {attempt(next_one["id"])}


async def test_an_engine_that_does_not_answer_changes_nothing_and_loses_nothing(house: JobHouse) -> None:
    running, waiting = await house.runs(), await house.submit()
    house.engine.unavailable = True
    await house.work(3)
    assert (await house.job(running["id"]))["status"] == "Running"
    assert (await house.job(waiting["id"]))["status"] == "Queuing"
    house.engine.unavailable = False
    house.engine.finish(attempt(running["id"]), 0)
    assert (await house.over(running["id"]))["status"] == "Succeeded"


async def test_a_container_that_vanishes_is_a_failed_job_not_one_that_runs_twice(house: JobHouse) -> None:
    running = await house.runs()
    house.engine.lose(attempt(running["id"]))
    done = await house.over(running["id"])
    assert (done["status"], done["reason_code"]) == ("Failed", "engine_lost")
    await house.work(2)
    assert house.engine.starts[attempt(running["id"]), 0] == 1


# Stop, delete


async def test_stop_while_waiting_is_over_at_once(house: JobHouse) -> None:
    await house.runs()
    waiting = await house.submit()
    answer = await house.send("ada", "POST", f"/jobs/{waiting['id']}/stop")
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["reason_code"]) == ("Stopped", "stopped_by_user")
    assert answer.json()["finished_at"] is not None


async def test_stop_ends_a_job_and_keeps_what_it_made(house: JobHouse) -> None:
    running = await house.runs(files={"a": b"a"})
    id = attempt(running["id"])
    house.engine.write(id, b"half\n", {"half.txt": b"half"})
    assert (await house.ask("ada", "POST", f"/jobs/{running['id']}/stop"))["status"] == "Stopping"
    again = await house.ask("ada", "POST", f"/jobs/{running['id']}/stop")
    assert statuses(again)[-2:] == ["Running", "Stopping"]
    done = await house.over(running["id"])
    assert (done["status"], done["reason_code"], done["exit_code"]) == ("Stopped", "stopped_by_user", 143)
    assert await house.log(running["id"]) == "half\n"
    assert await house.outputs(running["id"]) == {"half.txt": ("new", b"half")}
    assert (await house.ask("ada", "POST", f"/jobs/{running['id']}/stop"))["status"] == "Stopped"


async def test_what_does_not_listen_to_term_is_killed_when_the_grace_is_over(house: JobHouse) -> None:
    house.engine.script = IgnoresTerm()
    running = await house.runs()
    id = attempt(running["id"])
    worker = house.workload(running["id"]).workers[0]
    await house.ask("ada", "POST", f"/jobs/{running['id']}/stop")
    await house.work(3)
    assert worker.signals == ["TERM"]
    await pass_time(house, running["id"], stop_sent_at=timedelta(seconds=11))
    await house.work()
    assert worker.signals == ["TERM", "KILL"]
    assert id not in house.engine.live()
    assert (await house.over(running["id"]))["exit_code"] == 137


async def test_the_longest_run_ends_a_job_that_runs_on(house: JobHouse) -> None:
    running = await house.runs(max_run_seconds=60)
    await house.work()
    assert (await house.job(running["id"]))["status"] == "Running"
    await pass_time(house, running["id"], started_at=timedelta(seconds=61))
    done = await house.over(running["id"])
    assert (done["status"], done["reason_code"]) == ("Failed", "max_duration_exceeded")
    assert statuses(done)[-2:] == ["Stopping", "Failed"]


async def test_a_running_job_is_looked_at_when_its_time_is_up(house: JobHouse) -> None:
    running = await house.runs(max_run_seconds=2)
    (row,) = await house.rows(t.Job, t.Job.id == running["id"])
    assert row.wake_at <= t.now() + timedelta(seconds=2)


async def test_deleting_leaves_no_row_no_file_and_no_container(house: JobHouse) -> None:
    house.engine.script = Ends(0, log=b"log", files={"made.txt": b"made by ada"})
    done = await house.over((await house.submit(files={"a": b"a"}))["id"])
    assert (await house.send("ada", "DELETE", f"/jobs/{done['id']}")).status_code == 202
    assert_problem(await house.send("ada", "GET", f"/jobs/{done['id']}"), 404, "job_not_found")
    assert (await house.ask("ada", "GET", "/jobs"))["items"] == []
    await house.work()
    assert await house.rows(t.Job) == []
    assert await house.rows(t.Output) == []
    assert not house.parts.files.has(digest(b"made by ada"))
    assert list(house.parts.files.logged()) == []


async def test_deleting_keeps_files_that_another_job_has_too(house: JobHouse) -> None:
    house.engine.script = Ends(0, files={"made.txt": b"the same"})
    first, second = [await house.over((await house.submit())["id"]) for _ in range(2)]
    await house.ask("ada", "DELETE", f"/jobs/{first['id']}")
    await house.work()
    assert await house.outputs(second["id"]) == {"made.txt": ("new", b"the same")}
    await house.ask("ada", "DELETE", f"/jobs/{second['id']}")
    await house.work()
    assert not house.parts.files.has(digest(b"the same"))


async def test_deleting_a_running_job_stops_it_first(house: JobHouse) -> None:
    running = await house.runs()
    assert (await house.ask("ada", "DELETE", f"/jobs/{running['id']}"))["status"] == "Stopping"
    assert house.engine.live()
    await house.work(3)
    assert house.workload_ids() == []
    assert await house.rows(t.Job) == []


async def test_a_version_that_a_live_job_uses_cannot_be_deleted(house: JobHouse) -> None:
    plan = await house.started("ada")
    await house.save("ada", plan["workspace_id"], "vision")
    made = await house.submit(environment="ada/vision")
    assert_problem(await house.send("ada", "DELETE", "/environments/ada/vision"), 409, "in_use")
    house.engine.script = Ends(0)
    await house.over(made["id"])
    assert (await house.send("ada", "DELETE", "/environments/ada/vision")).status_code == 204


# The log


async def test_the_log_of_a_running_job_is_read_from_any_byte(house: JobHouse) -> None:
    running = await house.runs()
    assert await house.log(running["id"]) == ""
    house.engine.write(attempt(running["id"]), b"one\ntwo\n")
    assert await house.log(running["id"]) == "one\ntwo\n"
    assert await house.log(running["id"], offset=4) == "two\n"
    assert await house.log(running["id"], offset=400) == ""
    assert (await house.send("ada", "GET", f"/jobs/{running['id']}/log", offset=-1)).status_code == 422


async def test_the_log_of_an_ended_job_is_the_same_bytes(house: JobHouse) -> None:
    said = bytes(range(256)) * 3000
    house.engine.script = Ends(0, log=said)
    done = await house.over((await house.submit())["id"])
    assert (await house.send("ada", "GET", f"/jobs/{done['id']}/log")).content == said
    assert (await house.send("ada", "GET", f"/jobs/{done['id']}/log", offset=1000)).content == said[1000:]
    assert done["log_bytes"] == len(said)


async def test_a_stream_of_an_ended_job_has_all_of_it_and_its_end(house: JobHouse) -> None:
    house.engine.script = Ends(3, log="zwölf Äpfel\n".encode())
    done = await house.over((await house.submit())["id"])
    assert await house.logged(done["id"]) == ("zwölf Äpfel\n", {"status": "Failed", "exit_code": 3})
    text, _ = await house.logged(done["id"], offset=7)
    assert text == "Äpfel\n"


async def test_a_stream_follows_a_job_over_its_end_without_losing_or_repeating_a_byte(
    house: JobHouse, live_for: ClientFor, hub: FakeHub
) -> None:
    running = await house.runs()
    id = attempt(running["id"])
    client = live_for("ada", groups=["vision"])
    said = "".join(f"Schritt {i}: größer\n" for i in range(200)).encode()
    heard: list[str] = []

    async def listen() -> None:
        async with client.stream(
            "GET", f"/jobs/{running['id']}/log", headers={"Accept": "text/event-stream"}
        ) as answer:
            async for piece in answer.aiter_text():
                heard.append(piece)

    listener = asyncio.create_task(listen())
    for start in range(0, len(said), 997):  # cuts characters in two
        house.engine.write(id, said[start : start + 997])

        async def is_there(upto: int = start) -> bool:
            return len(joined("".join(heard))[0].encode()) >= upto

        await eventually(is_there, bool)
    house.engine.finish(id, 0)
    await house.work(2)
    await listener
    assert joined("".join(heard)) == (said.decode(), {"status": "Succeeded", "exit_code": 0})


async def test_a_container_that_goes_between_row_and_log_still_gives_the_whole_log(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await house.runs()
    house.engine.write(attempt(running["id"]), b"all of it\n")
    logs = house.engine.logs

    async def late(id: Any, worker: int = 0, *, offset: int = 0) -> AsyncIterator[bytes]:
        # the job ends and is collected after its row was read, before its log is
        monkeypatch.setattr(house.engine, "logs", logs)
        house.engine.finish(id, 0)
        await house.work(2)
        async for data in house.engine.logs(id, worker, offset=offset):
            yield data

    monkeypatch.setattr(house.engine, "logs", late)
    assert await house.log(running["id"]) == "all of it\n"


async def test_a_log_that_would_fill_the_disk_is_cut_and_says_so(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "LOG_BYTES", 10)
    house.engine.script = Ends(0, log=b"0123456789more")
    done = await house.over((await house.submit())["id"])
    assert await house.log(done["id"]) == "0123456789\n[himalia] The log was cut here, at 10 bytes.\n"


# Outputs


async def test_outputs_come_in_pages_and_as_one_archive(house: JobHouse) -> None:
    files = {f"out/{i:03}.txt": b"x" * i for i in range(7)}
    house.engine.script = Ends(0, files=files)
    done = await house.over((await house.submit())["id"])
    first = await house.ask("ada", "GET", f"/jobs/{done['id']}/outputs", limit=4)
    rest = await house.ask("ada", "GET", f"/jobs/{done['id']}/outputs", limit=4, page_token=first["next_token"])
    assert [item["path"] for item in first["items"] + rest["items"]] == sorted(files)
    assert rest["next_token"] is None
    answer = await house.send("ada", "GET", f"/jobs/{done['id']}/outputs.tar.gz")
    assert answer.headers["Content-Type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert {m.name: m.size for m in tar} == {name: len(data) for name, data in files.items()}


@pytest.mark.parametrize("name", ["a b/ü.html", 'q"uote\\.txt', "x/" * 40 + "deep", "100%.txt", "#?&.txt"])
async def test_an_output_of_any_name_is_a_download_and_never_a_page(house: JobHouse, name: str) -> None:
    house.engine.script = Ends(0, files={name: b"<script>"})
    done = await house.over((await house.submit())["id"])
    (item,) = (await house.ask("ada", "GET", f"/jobs/{done['id']}/outputs"))["items"]
    assert item["path"] == name
    answer = await house.send("ada", "GET", f"/jobs/{done['id']}/outputs/{quote(name)}")
    assert answer.content == b"<script>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert "\n" not in answer.headers["Content-Disposition"]
    assert answer.headers["Content-Length"] == "8"


async def test_an_output_that_is_not_there_is_said(house: JobHouse) -> None:
    house.engine.script = Ends(0, files={"a": b"a"})
    done = await house.over((await house.submit())["id"])
    for path in ("b", "worker-1/a", "worker-0/a", "../../secrets/seal", "%2e%2e/x"):
        assert (await house.send("ada", "GET", f"/jobs/{done['id']}/outputs/{path}")).status_code == 404
    assert (await house.send("ada", "GET", f"/jobs/{done['id']}/outputs", page_token="!")).status_code == 422


# What nobody wants


async def test_a_workload_without_a_row_is_removed_after_a_while_and_others_are_left_alone(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await house.runs()
    known = house.engine.workloads[attempt(running["id"])]
    for id in ("job-ffffffffffff-a1", "boot-ffffffffffff", f"{running['id']}-a2"):
        house.engine.workloads[WorkloadId(id)] = known
    house.engine.volumes["himalia-0f1e2d3c-home-p-gone"] = {}
    monkeypatch.setattr(job, "AGAIN", timedelta())
    await house.work(2)
    # of an attempt that the row does not know, nobody is waiting for a row
    assert set(house.engine.workloads) == {attempt(running["id"]), "job-ffffffffffff-a1", "boot-ffffffffffff"}
    monkeypatch.setattr(job, "ORPHAN_SECONDS", 0.0)
    await house.work()
    assert set(house.engine.workloads) == {attempt(running["id"])}
    assert "himalia-0f1e2d3c-home-p-gone" in house.engine.volumes


async def test_a_boot_check_whose_version_is_being_saved_is_left_alone(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.engine.scripts["boot-check"] = Runs()
    plan = await house.started("ada")
    await house.ask("ada", "POST", f"/workspaces/{plan['workspace_id']}/environments", {"name": "vision"})
    await house.turn()
    await house.turn()
    monkeypatch.setattr(job, "AGAIN", timedelta())
    monkeypatch.setattr(job, "ORPHAN_SECONDS", 0.0)
    await house.work(2)
    assert len(house.workload_ids()) == 1


async def test_packs_and_files_that_nobody_needs_are_swept_and_others_stay(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.engine.script = Ends(0, log=b"log", files={"made": b"made"})
    used = await house.over((await house.submit(files={"used": b"1"}))["id"])
    unused, fresh = packed({"unused": b"1"}), packed({"fresh": b"1"})
    await house.upload("ada", unused)
    await house.upload("ada", fresh)
    stray, _ = await house.parts.files.put_stream(_stream(b"kept, and its row lost in a crash"))
    async with house.parts.db.write() as session:
        await session.execute(
            update(t.Input).where(t.Input.digest != digest(fresh)).values(created_at=t.now() - timedelta(hours=2))
        )
    monkeypatch.setattr(job, "_old_files", lambda files: set(files.digests()))
    monkeypatch.setattr(job, "SWEEP_SECONDS", 0.0)
    await house.work()
    assert not house.parts.files.has(digest(unused))
    assert not house.parts.files.has(stray)
    assert house.parts.files.has(digest(fresh))
    assert house.parts.files.has(digest(packed({"used": b"1"})))
    assert await house.outputs(used["id"]) == {"made": ("new", b"made")}
    assert await house.log(used["id"]) == "log"


async def test_an_idle_pass_writes_nothing(house: JobHouse) -> None:
    await house.runs()
    await house.submit()
    await house.work(2)
    commits: list[int] = []
    off = house.parts.db.on_commit(lambda: commits.append(1))
    await job.step(house.parts, "test")
    off()
    assert commits == []


async def test_every_status_has_an_event_written_with_it(house: JobHouse) -> None:
    house.engine.script = Ends(3)
    done = await house.over((await house.submit())["id"])
    events = await house.rows(t.Event, t.Event.target == done["id"])
    assert [event.status for event in events] == ["Creating", "Queuing", "EnvPreparing", "Running", "Failed"]
    assert [event.actor for event in events] == ["ada", "ada", "himalia", "himalia", "himalia"]
    assert {event.attempt for event in events} == {1}
    assert events[-1].reason_code == "container_exited_with_error"


async def test_the_real_loop_runs_a_job_to_its_end_by_hints_and_commits(house: JobHouse, reconciling: None) -> None:
    made = await house.submit()
    await eventually(lambda: house.job(made["id"]), lambda seen: seen["status"] == "Running")
    house.engine.finish(attempt(made["id"]), 0)
    await eventually(lambda: house.job(made["id"]), lambda seen: seen["status"] == "Succeeded")


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def pass_time(house: JobHouse, id: str, **moments: timedelta) -> None:
    """As if these moments had been so long ago."""
    async with house.parts.db.write() as session:
        await session.execute(
            update(t.Job).where(t.Job.id == id).values({name: t.now() - ago for name, ago in moments.items()})
        )


async def test_half_a_character_in_a_request_is_refused_with_a_sentence(house: JobHouse, client_for: ClientFor) -> None:
    body = '{"kind": "command", "command": ["true"], "environment": "himalia/base", "display_name": "\\ud800"}'
    async with client_for("ada") as client:
        answer = await client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "no_text")
