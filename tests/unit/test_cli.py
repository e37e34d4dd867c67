"""The command line: what goes to stdout and what to stderr, and with which exit code it ends."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from himalia import login
from himalia.cli import app as application
from himalia.cli.app import run
from himalia.cli.output import span
from scripted_platform import (
    GATEWAY,
    TOKEN,
    Answer,
    Asked,
    ScriptedPlatform,
    environment,
    job,
    ok,
    page,
    problem,
    serve,
    stream,
    version,
    workspace,
)

URLS = {
    name: f"http://ada.himalia.localhost:8000/user/ada/{name}" for name in ("lab", "vscode", "terminal", "tensorboard")
}


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedPlatform]:
    for name in list(os.environ):
        if name.startswith(("HIMALIA_", "JUPYTERHUB_", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path.resolve() / "home/ada"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    with serve() as platform:
        monkeypatch.setenv("HIMALIA_URL", platform.url)
        monkeypatch.setenv("HIMALIA_TOKEN", TOKEN)
        yield platform


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def himalia(platform: ScriptedPlatform, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*arguments: str) -> Ran:
        code = run(arguments)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return command


def takes_inputs(platform: ScriptedPlatform) -> None:
    answer = platform.answer

    def anything(asked: Asked) -> Answer:
        if "/inputs/" in asked.path:
            return (
                Answer(404) if asked.method == "HEAD" else ok({"digest": "sha256:0", "size_bytes": 1, "files": 1}, 201)
            )
        return answer(asked)

    platform.answer = anything  # type: ignore[method-assign]


class TestExitCodes:
    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (problem(422, "invalid", "No."), 2),
            (problem(413, "too_large", "No."), 2),
            (problem(404, "not_found", "No."), 3),
            (problem(401, "unauthorized", "No."), 4),
            (problem(403, "forbidden", "No."), 4),
            (problem(409, "conflict", "No."), 1),
            (problem(500, "internal", "No."), 1),
            (problem(503, "image_building", "No."), 5),
        ],
    )
    def test_each_kind_of_refusal_has_its_own(
        self, himalia: Any, platform: ScriptedPlatform, answer: Answer, code: int
    ) -> None:
        platform.on("GET", "/me", answer)
        done = himalia("whoami")
        assert (done.code, done.out) == (code, "")
        assert done.err.strip()
        assert "Traceback" not in done.err

    def test_wrong_usage_is_2(self, himalia: Any) -> None:
        assert [
            himalia(*words).code
            for words in (["nothing"], ["job", "submit", "--no-such"], ["job", "show"], ["job", "submit"])
        ] == [2, 2, 2, 2]

    def test_nobody_logged_in_is_4_and_says_how_to_be(self, himalia: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HIMALIA_TOKEN")
        done = himalia("whoami")
        assert (done.code, "himalia login" in done.err) == (4, True)

    def test_no_platform_is_5(self, himalia: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HIMALIA_URL", "http://himalia.localhost:9")
        assert himalia("whoami").code == 5

    def test_with_json_an_error_is_json_on_stderr_and_stdout_stays_empty(
        self, himalia: Any, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/jobs/job-9", problem(404, "not_found", "There is no such job."))
        done = himalia("job", "show", "job-9", "--json")
        assert (done.code, done.out) == (3, "")
        assert json.loads(done.err)["error"] == {
            "status": 404,
            "code": "not_found",
            "detail": "There is no such job.",
            "request_id": "req-1",
        }

    def test_a_word_of_the_script_that_is_called_json_is_none_of_ours(self, himalia: Any) -> None:
        done = himalia("job", "submit", "gone.py", "-e", "vision", "--", "--json")
        assert (done.code, done.err) == (2, "There is no file gone.py here.\n")


class TestJson:
    @pytest.mark.parametrize(
        ("words", "key"),
        [
            ("whoami", "name"),
            ("workspaces list", None),
            ("workspaces show", "id"),
            ("workspaces open", "lab"),
            ("workspaces create two", "id"),
            ("workspaces delete", "deleted"),
            ("env list", None),
            ("env show vision", "ref"),
            ("env show vision:1", "phase"),
            ("env packages vision", "pip"),
            ("env share vision --everyone", "visibility"),
            ("env delete vision", "deleted"),
            ("env save vision", "digest"),
            ("job list", None),
            ("job show job-1", "digest"),
            ("job logs job-1", "log"),
            ("job stop job-1", "status"),
            ("job delete job-1", "deleted"),
            ("job outputs job-1 --list", None),
            ("job wait job-1", "exit_code"),
        ],
    )
    def test_everything_there_is_prints_one_json_document_and_asks_nothing(
        self, himalia: Any, platform: ScriptedPlatform, words: str, key: str | None
    ) -> None:
        everything(platform)
        done = himalia(*words.split(), "--json")
        assert done.code == 0, done.err
        assert isinstance(done.json, list) if key is None else key in done.json

    @pytest.mark.parametrize(
        "words",
        [
            "workspaces list",
            "workspaces show",
            "env list",
            "env show vision",
            "env show vision:1",
            "env packages vision",
            "job list",
            "job show job-1",
            "job outputs job-1 --list",
        ],
    )
    def test_without_it_people_read_a_table(self, himalia: Any, platform: ScriptedPlatform, words: str) -> None:
        everything(platform)
        done = himalia(*words.split())
        assert done.code == 0
        assert any(word in done.out for word in ("vision", "job-1", "(default)", "numpy", "model.bin"))

    def test_nothing_to_list_is_a_sentence_beside_an_empty_result(
        self, himalia: Any, platform: ScriptedPlatform
    ) -> None:
        platform.on("GET", "/jobs", page())
        done = himalia("job", "list")
        assert (done.code, done.out) == (0, "")
        assert "no job yet" in done.err


def everything(platform: ScriptedPlatform) -> None:
    """One of each thing, all at peace."""
    saved, line = version(digest="sha256:1"), environment(version(digest="sha256:1"))
    done = job("Succeeded", exit_code=0)
    platform.on("GET", "/workspaces", page(workspace(urls=URLS)))
    platform.on("POST", "/workspaces", ok(workspace("Stopped"), 201))
    platform.on("GET", "/workspaces/ws-1", ok(workspace(urls=URLS)))
    platform.on("DELETE", "/workspaces/ws-1", Answer(202))
    platform.on("POST", "/workspaces/ws-1/environments", ok(saved, 202))
    platform.on("GET", "/environments", page(line))
    platform.on("GET", "/environments/ada/vision", ok(line))
    platform.on("PATCH", "/environments/ada/vision", ok(line))
    platform.on("DELETE", "/environments/ada/vision", Answer(204))
    platform.on("GET", "/environments/ada/vision/versions/1", ok(saved))
    platform.on(
        "GET", "/environments/ada/vision/versions/1/packages", ok({"pip": [{"name": "numpy", "version": "2.1"}]})
    )
    platform.on("GET", "/jobs", page(done))
    platform.on("GET", "/jobs/job-1", ok(done))
    platform.on("POST", "/jobs/job-1/stop", ok(done, 202))
    platform.on("DELETE", "/jobs/job-1", Answer(204))
    platform.on(
        "GET", "/jobs/job-1/outputs", page({"path": "model.bin", "size_bytes": 1, "digest": "", "change": "new"})
    )
    platform.on(
        "GET",
        "/jobs/job-1/log",
        lambda asked: (
            stream(("end", {"status": "Succeeded", "exit_code": 0}))
            if "event-stream" in asked.headers["accept"]
            else Answer(200, b"hello\n")
        ),
    )


class TestSubmit:
    @pytest.fixture(autouse=True)
    def _files(self, platform: ScriptedPlatform) -> None:
        takes_inputs(platform)
        Path("train.py").write_text("print(1)")
        Path("a.ipynb").write_text("{}")
        platform.on("POST", "/jobs", ok(job(), 202))

    def sent(self, platform: ScriptedPlatform) -> Any:
        return platform.calls("POST", "/jobs")[-1].json

    def test_it_says_what_was_packed_and_what_comes_next_and_prints_nothing_else(
        self, himalia: Any, platform: ScriptedPlatform
    ) -> None:
        done = himalia(
            "job",
            "submit",
            "train.py",
            "-e",
            "vision",
            "-m",
            "small",
            "--name",
            "first",
            "--max-run",
            "2h",
            "--env",
            "A=b=c",
            "--",
            "--lr",
            "3",
        )
        assert (done.code, done.out) == (0, "")
        assert done.err.splitlines() == [
            "packed 2 files, 10 B",
            "job-1 is Queuing in ada/vision:1, on small.",
            "Its log: himalia job logs -f job-1 · stop it: himalia job stop job-1 · what it made: himalia job outputs job-1",
        ]
        sent = self.sent(platform)
        assert (sent["environment"], sent["script"], sent["arguments"], sent["env"], sent["max_run_seconds"]) == (
            "ada/vision",
            "train.py",
            ["--lr", "3"],
            {"A": "b=c"},
            7200,
        )

    def test_a_notebook_by_its_ending_with_parameters_as_json_or_text(
        self, himalia: Any, platform: ScriptedPlatform
    ) -> None:
        assert (
            himalia(
                "job",
                "submit",
                "a.ipynb",
                "-e",
                "vision",
                "-p",
                "n=3",
                "-p",
                "rate=0.5",
                "-p",
                "name=digits",
                "-p",
                "on=true",
            ).code
            == 0
        )
        assert self.sent(platform)["parameters"] == {"n": 3, "rate": 0.5, "name": "digits", "on": True}

    @pytest.mark.parametrize(
        ("words", "command"),
        [
            (["--command", "make all && ls"], ["bash", "-c", "make all && ls"]),
            (["--", "python", "-m", "pkg", "--lr", "3"], ["python", "-m", "pkg", "--lr", "3"]),
        ],
    )
    def test_commands_as_a_line_or_as_words(
        self, himalia: Any, platform: ScriptedPlatform, words: list[str], command: list[str]
    ) -> None:
        assert himalia("job", "submit", "-e", "vision", *words).code == 0
        assert (self.sent(platform)["kind"], self.sent(platform)["command"]) == ("command", command)

    @pytest.mark.parametrize(
        "words",
        [
            ["gone.py"],
            ["train.py", "--command", "x"],
            ["a.ipynb", "--", "x"],
            ["train.py", "--env", "novalue"],
            ["train.py", "-p", "a=1"],
            ["train.py", "--max-run", "soon"],
            ["train.py", "--wait", "--detach"],
        ],
    )
    def test_what_makes_no_sense_is_refused_before_a_job_is_made(
        self, himalia: Any, platform: ScriptedPlatform, words: list[str]
    ) -> None:
        done = himalia("job", "submit", "-e", "vision", *words)
        assert (done.code, platform.calls("POST", "/jobs")) == (2, [])
        assert done.err.strip()

    @pytest.mark.parametrize(
        ("status", "code", "meant"),
        [("Succeeded", 0, 0), ("Failed", 3, 3), ("Failed", 137, 137), ("Failed", None, 1), ("Stopped", None, 1)],
    )
    def test_waiting_streams_the_log_and_ends_with_the_jobs_exit_code(
        self, himalia: Any, platform: ScriptedPlatform, status: str, code: int | None, meant: int
    ) -> None:
        platform.on(
            "GET",
            "/jobs/job-1/log",
            stream(("log", {"offset": 0, "text": "score 0.97\n"}), ("end", {"status": status, "exit_code": code})),
        )
        platform.on(
            "GET",
            "/jobs/job-1",
            ok(job(status, exit_code=code, reason_message="Because.", outputs=2, output_bytes=1500)),
        )
        done = himalia("job", "submit", "train.py", "-e", "vision", "--wait")
        assert (done.code, done.out) == (meant, "score 0.97\n")
        assert f"job-1 {status}: Because." in done.err
        assert "2 files (2 kB)" in done.err

    def test_waiting_with_json_prints_the_job_alone_on_stdout(self, himalia: Any, platform: ScriptedPlatform) -> None:
        platform.on(
            "GET",
            "/jobs/job-1/log",
            stream(("log", {"offset": 0, "text": "score 0.97\n"}), ("end", {"status": "Failed", "exit_code": 3})),
        )
        platform.on("GET", "/jobs/job-1", ok(job("Failed", exit_code=3)))
        done = himalia("job", "submit", "train.py", "-e", "vision", "--wait", "--json")
        assert (done.code, done.json["status"], done.err) == (3, "Failed", "score 0.97\n")

    def test_interrupting_a_wait_leaves_the_job_and_says_how_to_stop_it(self, platform: ScriptedPlatform) -> None:
        platform.on("GET", "/jobs/job-1/log", stream(("log", {"offset": 0, "text": "begun\n"}), drop=True), GATEWAY)
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from himalia.cli import main; main()",
                "job",
                "submit",
                "train.py",
                "-e",
                "vision",
                "--wait",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (130, "")
        assert "job-1 goes on. Stop it: himalia job stop job-1" in err
        assert platform.calls("POST", "/jobs/job-1/stop") == []


class TestSave:
    def test_phases_are_shown_beside_and_the_next_steps_after(
        self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        everything(platform)
        monkeypatch.setenv("HIMALIA_WORKSPACE", "ws-1")
        platform.on("POST", "/workspaces/ws-1/environments", ok(version("Committing"), 202))
        phases = [
            version("Committing"),
            version("Pushing", progress_bytes=1_500_000),
            version("Pushing", progress_bytes=3_000_000),
            version("Verifying"),
            version(warnings=["kernel_broken: ipykernel"]),
        ]
        platform.on("GET", "/environments/ada/vision/versions/1", *map(ok, phases))
        done = himalia("env", "save", "vision", "--note", "why")
        assert (done.code, done.out) == (0, "")
        assert [line.split(" · ")[0] for line in done.err.splitlines()] == [
            "Committing",
            "Pushing",
            "Verifying",
            "Saved",
            "Warning: kernel_broken: ipykernel",
            "ada/vision:1 is Saved. Share it: himalia env share vision --group GROUP. Run in it: himalia job submit SCRIPT -e ada/vision",
        ]

    def test_one_that_fails_is_1_with_its_reason(self, himalia: Any, platform: ScriptedPlatform) -> None:
        everything(platform)
        platform.on(
            "GET", "/environments/ada/vision/versions/1", ok(version("Failed", reason_message="It did not boot."))
        )
        platform.on("POST", "/workspaces/ws-1/environments", ok(version("Committing"), 202))
        done = himalia("env", "save", "vision")
        assert done.code == 1
        assert "It did not boot. Your workspace is as it was." in done.err


class TestSharing:
    def test_one_audience_has_to_be_named(self, himalia: Any, platform: ScriptedPlatform) -> None:
        everything(platform)
        assert himalia("env", "share", "vision").code == 2
        assert himalia("env", "share", "vision", "--group", "vision", "--everyone").code == 2

    def test_it_says_whose_programs_run_as_whom(self, himalia: Any, platform: ScriptedPlatform) -> None:
        everything(platform)
        platform.on("PATCH", "/environments/ada/vision", ok(environment(visibility="group", group="vision")))
        done = himalia("env", "share", "vision", "--group", "vision")
        assert (
            done.err
            == "ada/vision is shared with group vision. Programs in it run as whoever starts it, and they are told so.\n"
        )


class TestOutputs:
    def test_files_of_mine_are_kept_and_that_is_1(self, himalia: Any, platform: ScriptedPlatform) -> None:
        data = b"theirs"
        platform.on(
            "GET",
            "/jobs/job-1",
            ok(
                job(
                    "Succeeded",
                    created_at=datetime.now(UTC).isoformat(),
                    input={"digest": "sha256:0", "path": "/job/work"},
                )
            ),
        )
        listed = [
            {"path": name, "size_bytes": 6, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "change": "new"}
            for name in ("model.bin", "other.bin")
        ]
        platform.on("GET", "/jobs/job-1/outputs", page(*listed))
        for name in ("model.bin", "other.bin"):
            platform.on("GET", f"/jobs/job-1/outputs/{name}", Answer(200, data))
        Path("model.bin").write_text("mine")
        done = himalia("job", "outputs", "job-1")
        assert done.code == 1
        assert "kept yours" in done.err
        assert (Path("model.bin").read_text(), Path("other.bin").read_text()) == ("mine", "theirs")
        assert himalia("job", "outputs", "job-1", "--force").code == 0
        assert Path("model.bin").read_text() == "theirs"
        done = himalia("job", "outputs", "job-1", "--to", "elsewhere", "--json")
        assert done.json == {
            "folder": str(Path("elsewhere").resolve()),
            "written": ["model.bin", "other.bin"],
            "unchanged": [],
            "kept": [],
        }


class TestDeleting:
    @pytest.mark.parametrize(
        ("words", "path"),
        [
            ("workspaces delete", "/workspaces/ws-1"),
            ("env delete vision", "/environments/ada/vision"),
            ("job delete job-1", "/jobs/job-1"),
        ],
    )
    def test_it_asks_first_and_no_is_no(
        self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch, words: str, path: str
    ) -> None:
        everything(platform)
        monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
        assert himalia(*words.split()).code == 1
        assert platform.calls("DELETE", path) == []
        assert himalia(*words.split(), "--yes").code == 0
        assert len(platform.calls("DELETE", path)) == 1


class TestLogin:
    @pytest.fixture(autouse=True)
    def _nobody(self, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HIMALIA_TOKEN")
        monkeypatch.delenv("HIMALIA_URL")

    def test_a_token_from_stdin_is_tried_kept_and_used_from_then_on(
        self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("secret-token\n"))
        done = himalia("login", "--url", platform.hub)
        assert (done.code, done.out) == (0, "")
        assert "Logged in as ada" in done.err
        assert "secret-token" not in done.err
        assert himalia("whoami", "--json").json["name"] == "ada"
        assert {asked.headers["authorization"] for asked in platform.asked} == {"Bearer secret-token"}
        assert himalia("logout").code == 0
        assert himalia("whoami").code == 4

    def test_a_token_nobody_knows_is_not_kept(
        self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        platform.on("GET", "/me", problem(401, "unauthorized", "No."))
        monkeypatch.setattr("sys.stdin", io.StringIO("wrong\n"))
        assert himalia("login", "--url", platform.hub).code == 4
        assert login.stored() is None

    def test_no_token_is_2(self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        assert himalia("login", "--url", platform.hub).code == 2

    def test_a_name_and_a_password(
        self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        platform.on("POST", "//hub/api/users/ada/tokens", ok({"token": "made"}, 201))
        monkeypatch.setattr("sys.stdin", io.StringIO("pass word\n"))
        done = himalia("login", "--url", platform.hub, "--password", "--user", "ada", "--json")
        assert (done.code, done.json["name"]) == (0, "ada")
        kept = login.stored()
        assert kept is not None
        assert kept.token == "made"
        assert "pass word" not in done.out + done.err


class TestElsewhere:
    def test_a_job_has_no_token_even_with_a_login_in_its_owners_home(
        self, himalia: Any, platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        login.store(login.Login(platform.url, "stored", ""))
        monkeypatch.delenv("HIMALIA_TOKEN")
        monkeypatch.setenv("HIMALIA_JOB", "job-1")
        done = himalia("job", "list")
        assert done.code == 4
        assert "This job has no token" in done.err
        assert platform.asked == []

    @pytest.mark.parametrize("words", [["up"], ["down"], ["status"], ["users", "add", "ada"], ["groups", "--json"]])
    def test_commands_of_the_host_say_where_they_work(
        self, himalia: Any, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        monkeypatch.setenv("HIMALIA_WORKSPACE", "ws-1")
        done = himalia(*words)
        assert done.code == 5
        assert f"`himalia {words[0]}` works on the machine that runs Himalia" in done.err

    def test_on_the_host_they_are_there(self, himalia: Any) -> None:
        done = himalia("--help")
        assert {"up", "down", "status", "users", "groups"} <= set(done.out.split())

    def test_an_installation_without_the_hosts_parts_still_has_the_rest(
        self, himalia: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Point:
            name = "host"

            def load(self) -> Any:
                raise ModuleNotFoundError("No module named 'himalia_services'", name="himalia_services")

        monkeypatch.setattr(application, "entry_points", lambda group: [Point()])
        assert himalia("whoami").code == 0
        assert himalia("up").code == 5

    def test_the_sdks_own_command_hands_over_to_the_one_of_our_prefix(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        ours = tmp_path / "bin/himalia"
        ours.write_text('#!/bin/sh\necho "ours $* ${PYTHONPATH-unset}"\n')
        ours.chmod(0o755)
        code = f"import himalia.cli as c; c.OURS = {str(tmp_path)!r}; c.main()"
        env = {**os.environ, "PYTHONPATH": "/of/the/person"}
        done = subprocess.run(
            [sys.executable, "-c", code, "job", "list"], capture_output=True, text=True, env=env, check=True
        )
        assert done.stdout == "ours job list unset\n"

    def test_without_the_cli_extra_it_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
        done = subprocess.run(
            [sys.executable, "-c", "from himalia.cli import main; main()"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert (done.returncode, done.stderr) == (1, "The command line needs typer: pip install 'himalia[cli]'\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (5, "5 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_stretches_of_time(seconds: float, text: str) -> None:
    assert span(seconds) == text
