"""What follows for a job, over every combination of what a row says and an engine reports."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from himalia import schema
from himalia_services.errors import Invalid
from himalia_services.model import job
from himalia_services.model.job import (
    Admit,
    Apply,
    Collect,
    Delete,
    End,
    Facts,
    Kill,
    Queue,
    Rest,
    Run,
    Term,
    Wait,
    conclude,
    decide,
)
from himalia_services.model.phases import JOB, terminal
from himalia_services.model.workload import Mount, WorkerObserved

AT = datetime(2026, 11, 1, tzinfo=UTC)
WORKERS = {
    "absent": None,
    "created": WorkerObserved(state="created"),
    "running": WorkerObserved(state="running", started_at=AT),
    "exited": WorkerObserved(state="exited", exit_code=0, started_at=AT, finished_at=AT),
}
LIMIT = timedelta(minutes=1)

#: status, stop wanted → what follows when the engine has: nothing, created, running, exited.
TABLE: dict[tuple[str, bool], tuple[Any, Any, Any, Any]] = {
    ("Creating", False): (Queue(), Queue(), Queue(), Queue()),
    ("Creating", True): (End(), End(), End(), End()),
    ("Queuing", False): (Wait(), Admit(), Admit(), Admit()),
    ("Queuing", True): (End(), End(), End(), End()),
    ("EnvPreparing", False): (Apply(), Apply(), Run(), Collect()),
    ("EnvPreparing", True): (End(), End(), Term("stopped_by_user"), Collect()),
    ("Running", False): (Collect(), Collect(), Wait(), Collect()),
    ("Running", True): (Collect(), Collect(), Term("stopped_by_user"), Collect()),
    ("Stopping", False): (Collect(), Collect(), Wait(), Collect()),
    ("Stopping", True): (Collect(), Collect(), Term("stopped_by_user"), Collect()),
    **{
        (status, wanted): (Rest(), Rest(), Rest(), Rest())
        for status in ("Succeeded", "Failed", "Stopped")
        for wanted in (False, True)
    },
}


def test_the_table_has_every_status() -> None:
    assert {status for status, _ in TABLE} == set(JOB)


@pytest.mark.parametrize(("status", "stop", "seen"), list(itertools.product(JOB, (False, True), WORKERS)))
def test_what_follows(status: str, stop: bool, seen: str) -> None:
    facts = Facts(status=status, stop_reason="stopped_by_user" if stop else "", worker=WORKERS[seen])
    assert decide(facts) == TABLE[status, stop][list(WORKERS).index(seen)]


@pytest.mark.parametrize(("status", "seen"), list(itertools.product(JOB, WORKERS)))
def test_a_deletion_waits_until_a_job_is_over(status: str, seen: str) -> None:
    with_it, without = (
        decide(Facts(status=status, delete_wanted=wanted, worker=WORKERS[seen])) for wanted in (True, False)
    )
    assert with_it == (Delete() if terminal("job", status) else without)


@pytest.mark.parametrize(
    ("status", "seen", "stop", "sent"), list(itertools.product(JOB, WORKERS, (False, True), (False, True)))
)
def test_nothing_that_ended_is_ever_started_again(status: str, seen: str, stop: bool, sent: bool) -> None:
    facts = Facts(
        status=status,
        worker=WORKERS[seen],
        stop_reason="stopped_by_user" if stop else "",
        stopping=timedelta() if sent else None,
    )
    if isinstance(decide(facts), Apply):
        assert status == "EnvPreparing"
        assert seen in ("absent", "created")
        assert not stop


def test_one_in_the_queue_goes_on_when_it_is_its_turn() -> None:
    assert decide(Facts(status="Queuing", slot=True)) == Admit()
    assert decide(Facts(status="Queuing", slot=True, stop_reason="stopped_by_user")) == End()


@pytest.mark.parametrize(
    ("ran", "follows"),
    [
        (timedelta(), Wait(LIMIT)),
        (timedelta(seconds=59), Wait(timedelta(seconds=1))),
        (LIMIT, Term("max_duration_exceeded")),
        (timedelta(hours=1), Term("max_duration_exceeded")),
    ],
)
def test_the_longest_run_counts_from_running(ran: timedelta, follows: object) -> None:
    assert decide(Facts(status="Running", worker=WORKERS["running"], max_run=LIMIT, running=ran)) == follows
    assert decide(Facts(status="EnvPreparing", worker=WORKERS["created"], max_run=LIMIT, running=ran)) == Apply()


@pytest.mark.parametrize(
    ("sent", "follows"),
    [
        (timedelta(), Wait(timedelta(seconds=10))),
        (timedelta(seconds=9), Wait(timedelta(seconds=1))),
        (timedelta(seconds=10), Kill()),
    ],
)
def test_after_term_comes_kill_when_the_grace_is_over(sent: timedelta, follows: object) -> None:
    facts = Facts(status="Stopping", worker=WORKERS["running"], stop_reason="stopped_by_user", stopping=sent)
    assert decide(facts) == follows


def ended(code: int, *, oom: bool = False) -> WorkerObserved:
    return WorkerObserved(state="exited", exit_code=code, oom_killed=oom, started_at=AT, finished_at=AT)


RECORD = {"exit_code": 3, "signal": None, "started_at": "", "ended_at": "", "error": None}


@pytest.mark.parametrize(
    ("worker", "result", "stop", "stopped", "status", "code"),
    [
        (ended(0), RECORD, "", False, "Succeeded", ""),
        (ended(3), RECORD, "", False, "Failed", "container_exited_with_error"),
        (ended(139), {**RECORD, "signal": 11}, "", False, "Failed", "container_exited_with_error"),
        (ended(143), {**RECORD, "signal": 15}, "", False, "Failed", "engine_lost"),
        (ended(137), None, "", False, "Failed", "engine_lost"),
        (ended(137, oom=True), None, "", False, "Failed", "out_of_memory"),
        (ended(1, oom=True), RECORD, "", False, "Failed", "out_of_memory"),
        (ended(0, oom=True), RECORD, "", False, "Succeeded", ""),
        (ended(127), {**RECORD, "error": "pyhton is not there or not on PATH."}, "", False, "Failed", "start_failed"),
        (
            ended(1),
            {**RECORD, "error": "The default kernel cannot start."},
            "",
            False,
            "Failed",
            "container_exited_with_error",
        ),
        (None, None, "", False, "Failed", "engine_lost"),
        (None, None, "stopped_by_user", True, "Stopped", "stopped_by_user"),
        (ended(143), RECORD, "stopped_by_user", True, "Stopped", "stopped_by_user"),
        (ended(0), RECORD, "stopped_by_user", True, "Stopped", "stopped_by_user"),
        (ended(143), RECORD, "max_duration_exceeded", True, "Failed", "max_duration_exceeded"),
        (ended(137, oom=True), None, "stopped_by_user", True, "Stopped", "stopped_by_user"),
        # it was over before anybody could tell it to end
        (ended(0), RECORD, "stopped_by_user", False, "Succeeded", ""),
        # what a program with sudo wrote in place of the record
        (ended(3), {"error": 7, "signal": "x"}, "", False, "Failed", "container_exited_with_error"),
        (ended(3), {}, "", False, "Failed", "container_exited_with_error"),
    ],
)
def test_what_an_end_means(worker: Any, result: Any, stop: str, stopped: bool, status: str, code: str) -> None:
    end = conclude(worker, result, stop, stopped=stopped)
    assert (end.status, end.reason_code) == (status, code)
    assert bool(end.reason_message) == (status != "Succeeded")
    assert len(end.reason_message) <= 1000


def test_the_runners_sentence_is_what_a_person_reads_cut_to_a_length() -> None:
    assert conclude(ended(1), {"error": "Long. " * 1000}, "", stopped=False).reason_message == ("Long. " * 1000)[:1000]


# What is run


def request(**more: Any) -> schema.JobRequest:
    return schema.JobRequest(**{"kind": "command", "environment": "ada/vision", **more})


INPUT = schema.JobInput(digest="sha256:" + "a" * 64, path="/home/jovyan/project")


@pytest.mark.parametrize(
    ("asked", "argv", "cwd"),
    [
        ({"kind": "command", "command": ["make", "all"]}, ["make", "all"], "/job/work"),
        (
            {"kind": "script", "script": "train.py", "arguments": ["--lr", "1"]},
            ["python", "train.py", "--lr", "1"],
            "/job/work",
        ),
        ({"kind": "script", "script": "run.sh", "input": INPUT}, ["bash", "run.sh"], "/home/jovyan/project"),
        ({"kind": "script", "script": "fit.R"}, ["Rscript", "fit.R"], "/job/work"),
        ({"kind": "script", "script": "tool"}, ["./tool"], "/job/work"),
        ({"kind": "script", "script": "bin/tool"}, ["bin/tool"], "/job/work"),
        ({"kind": "script", "script": "-c.py"}, ["python", "./-c.py"], "/job/work"),
        (
            {"kind": "script", "script": "src/train.py", "input": INPUT, "working_dir": "/home/jovyan/project/a"},
            ["python", "src/train.py"],
            "/home/jovyan/project/a",
        ),
        (
            {"kind": "notebook", "notebook": "nb/fit.ipynb", "input": INPUT},
            ["papermill", "/home/jovyan/project/nb/fit.ipynb", "/home/jovyan/project/nb/fit.ipynb"],
            "/home/jovyan/project/nb",
        ),
        (
            {"kind": "notebook", "notebook": "fit.ipynb", "working_dir": "/home/jovyan/project/nb", "input": INPUT},
            ["papermill", "/home/jovyan/project/nb/fit.ipynb", "/home/jovyan/project/nb/fit.ipynb"],
            "/home/jovyan/project/nb",
        ),
        (
            {"kind": "notebook", "notebook": "/home/jovyan/fit.ipynb"},
            ["papermill", "/home/jovyan/fit.ipynb", "/home/jovyan/fit.ipynb"],
            "/home/jovyan",
        ),
    ],
)
def test_what_is_executed_and_where(asked: dict[str, Any], argv: list[str], cwd: str) -> None:
    asking = request(**asked)
    job.check(asking)
    assert job.command(asking) == argv
    assert job.working_dir(asking) == cwd


def test_a_notebook_reaches_the_runner_with_its_parameters() -> None:
    parameters = {"lr": 0.1, "name": "ü", "layers": [1, 2], "on": True, "none": None}
    asking = request(kind="notebook", notebook="fit.ipynb", parameters=parameters)
    spec = job.spec("notebook", job.command(asking), "/job/work", {"A": "1"})
    assert json.loads(json.dumps(spec)) == {
        "kind": "notebook",
        "argv": job.command(asking),
        "cwd": "/job/work",
        "env": {"A": "1"},
        "grace_seconds": 10.0,
        "notebook": "/job/work/fit.ipynb",
        "parameters": parameters,
    }


def test_a_script_reaches_the_runner_as_its_command() -> None:
    assert job.spec("script", ["python", "a.py"], "/job/work", {}) == {
        "kind": "script",
        "argv": ["python", "a.py"],
        "cwd": "/job/work",
        "env": {},
        "grace_seconds": 10.0,
    }


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"kind": "command"}, "kind"),
        ({"kind": "script", "command": ["x"]}, "kind"),
        ({"kind": "script", "script": "a.py", "command": ["x"]}, "kind"),
        ({"kind": "command", "command": ["x"], "arguments": ["y"]}, "arguments"),
        ({"kind": "script", "script": "a.py", "parameters": {"a": 1}}, "parameters"),
        ({"kind": "notebook", "notebook": "a.py"}, "notebook"),
        ({"kind": "script", "script": "a.ipynb"}, "script"),
        ({"kind": "command", "command": ["a\0b"]}, "command"),
        ({"kind": "command", "command": ["x" * 100_001]}, "command"),
        ({"kind": "notebook", "notebook": "a.ipynb", "parameters": {"a": "x" * 256_001}}, "parameters"),
        ({"kind": "command", "command": ["x"], "display_name": "x" * 256}, "display_name"),
        ({"kind": "command", "command": ["x"], "env": {"1A": "x"}}, "env"),
        ({"kind": "command", "command": ["x"], "env": {"A=B": "x"}}, "env"),
        ({"kind": "command", "command": ["x"], "env": {"A": "x\0"}}, "env"),
        ({"kind": "command", "command": ["x"], "env": {"A": "x" * 64_001}}, "env"),
        ({"kind": "command", "command": ["x"], "max_run_seconds": 0}, "max_run_seconds"),
        ({"kind": "command", "command": ["x"], "max_run_seconds": 30 * 86_400 + 1}, "max_run_seconds"),
        ({"kind": "command", "command": ["x"], "working_dir": "relative"}, "path"),
        ({"kind": "command", "command": ["x"], "working_dir": "/home/../etc"}, "path"),
        ({"kind": "command", "command": ["x"], "working_dir": "/home/jovyan/"}, "path"),
        *(
            ({"kind": "command", "command": ["x"], "input": schema.JobInput(digest=INPUT.digest, path=path)}, code)
            for path, code in [
                ("/", "input_path"),
                ("/etc", "input_path"),
                ("/job", "input_path"),
                ("/opt/himalia", "input_path"),
                ("/home/jovyanne/x", "input_path"),
                ("/home/jovyan/../x", "path"),
                ("/job/./x", "path"),
                ("//job/x", "path"),
                ("job/x", "path"),
                ("/job/" + "x" * 4096, "path"),
            ]
        ),
        (
            {
                "kind": "command",
                "command": ["x"],
                "input": schema.JobInput(digest=INPUT.digest, path="/job/x", git_commit="main"),
            },
            "git_commit",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_a_sentence(asked: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as caught:
        job.check(request(**asked))
    assert caught.value.reason == code
    assert caught.value.detail.endswith(".")


VOLUMES = [("home", "/home/jovyan"), ("vision", "/home/jovyan/shared/vision")]


def test_volumes_are_at_their_places_and_once_more_where_links_lead() -> None:
    assert job.mounts(VOLUMES, "/home/jovyan/project") == [
        Mount(source="home", target="/home/jovyan"),
        Mount(source="vision", target="/home/jovyan/shared/vision"),
        Mount(source="home", target="/run/himalia/live/home"),
        Mount(source="vision", target="/run/himalia/live/shared/vision"),
    ]


@pytest.mark.parametrize(("place", "left"), [("/home/jovyan", "vision"), ("/home/jovyan/shared/vision", "home")])
def test_a_project_at_the_root_of_a_volume_takes_its_place(place: str, left: str) -> None:
    own = [mount for mount in job.mounts(VOLUMES, place) if not mount.target.startswith("/run/")]
    assert [mount.source for mount in own] == [left]
    assert len(job.mounts(VOLUMES, place)) == 3


@pytest.mark.parametrize(
    ("stop_reason", "ending"),
    [("stopped_by_user", ("Stopped", "stopped_by_user")), ("", ("Failed", "engine_lost"))],
)
def test_a_container_that_never_ran_is_no_success(stop_reason: str, ending: tuple[str, str]) -> None:
    end = conclude(WorkerObserved(state="created"), None, stop_reason, stopped=False)
    assert (end.status, end.reason_code) == ending
