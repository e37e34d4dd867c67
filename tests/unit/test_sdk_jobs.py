"""Submitting from a folder, and putting outputs back: what is sent, what is written, what is never overwritten."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from himalia import errors
from himalia.client import Himalia
from himalia.job import Job, exit_status, seconds
from himalia.login import Login
from scripted_platform import TOKEN, Answer, Asked, ScriptedPlatform, job, ok, page, problem, serve


@pytest.fixture
def platform() -> Iterator[ScriptedPlatform]:
    with serve() as platform:
        platform.on("POST", "/jobs", ok(job(), 202))
        yield platform


@pytest.fixture
def himalia(platform: ScriptedPlatform) -> Iterator[Himalia]:
    with Himalia(Login(platform.url, TOKEN, "argument"), environ={}) as client:
        yield client


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path.resolve() / "home/ada"
    (home / "work/nb").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("HIMALIA_WORKSPACE", raising=False)
    monkeypatch.chdir(home / "work")
    (home / "work/.himaliaignore").touch()
    (home / "work/train.py").write_text("print(1)")
    (home / "work/run.sh").write_text("echo 1")
    (home / "work/nb/a.ipynb").write_text("{}")
    return home / "work"


def takes_inputs(platform: ScriptedPlatform, *, known: bool = False) -> list[Asked]:
    """Let the platform take any pack; what was uploaded."""
    uploads: list[Asked] = []
    answer = platform.answer

    def anything(asked: Asked) -> Answer:
        if "/inputs/" not in asked.path:
            return answer(asked)
        if asked.method == "HEAD":
            return Answer(200 if known else 404)
        uploads.append(asked)
        return ok({"digest": asked.path.rsplit("/", 1)[1], "size_bytes": len(asked.body), "files": 1}, 201)

    platform.answer = anything  # type: ignore[method-assign]
    return uploads


def sent(platform: ScriptedPlatform) -> Any:
    return platform.calls("POST", "/jobs")[-1].json


class TestSubmit:
    def test_a_script_with_everything_said(self, himalia: Himalia, platform: ScriptedPlatform, work: Path) -> None:
        (upload,) = [takes_inputs(platform)]
        himalia.jobs.submit(
            "train.py",
            environment="vision",
            machine="small",
            args=["--lr", "3"],
            env={"A": "b"},
            name="first",
            max_run="2h",
        )
        request = sent(platform)
        digest = request["input"].pop("digest")
        assert request == {
            "kind": "script",
            "environment": "ada/vision",
            "script": "train.py",
            "arguments": ["--lr", "3"],
            "machine": "small",
            "display_name": "first",
            "working_dir": "/job/work",
            "input": {"path": "/job/work"},
            "env": {"A": "b"},
            "max_run_seconds": 7200,
        }
        (asked,) = upload
        assert digest == f"sha256:{hashlib.sha256(asked.body).hexdigest()}"
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(asked.body))) as tar:
            assert "train.py" in tar.getnames()

    def test_a_pack_the_platform_has_is_not_sent_again(
        self, himalia: Himalia, platform: ScriptedPlatform, work: Path
    ) -> None:
        uploads = takes_inputs(platform, known=True)
        himalia.jobs.submit("train.py", environment="vision")
        assert uploads == []

    def test_a_notebook_works_in_its_folder_and_takes_parameters(
        self, himalia: Himalia, platform: ScriptedPlatform, work: Path
    ) -> None:
        takes_inputs(platform)
        himalia.jobs.submit(notebook="nb/a.ipynb", environment="ada/vision:3", parameters={"n": 3})
        request = sent(platform)
        assert (request["kind"], request["notebook"], request["working_dir"], request["parameters"]) == (
            "notebook",
            "a.ipynb",
            "/job/work/nb",
            {"n": 3},
        )

    def test_a_shell_script_is_a_script_and_a_line_a_command_of_bash(
        self, himalia: Himalia, platform: ScriptedPlatform, work: Path
    ) -> None:
        takes_inputs(platform)
        himalia.jobs.submit("run.sh", environment="vision", args=["x"])
        assert (sent(platform)["kind"], sent(platform)["script"], sent(platform)["arguments"]) == (
            "script",
            "run.sh",
            ["x"],
        )
        himalia.jobs.submit(command="make all | tee log", environment="vision")
        assert sent(platform)["command"] == ["bash", "-c", "make all | tee log"]
        himalia.jobs.submit(command=["make", "all"], environment="vision")
        assert sent(platform)["command"] == ["make", "all"]

    def test_in_a_workspace_the_environment_is_its_own_by_default(
        self, platform: ScriptedPlatform, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        takes_inputs(platform)
        inside = {"HIMALIA_WORKSPACE": "ws-1", "HIMALIA_ENVIRONMENT": "himalia/base:1"}
        monkeypatch.setenv("HIMALIA_WORKSPACE", "ws-1")
        with Himalia(Login(platform.url, TOKEN, "workspace"), environ=inside) as himalia:
            himalia.jobs.submit("train.py")
        request = sent(platform)
        assert (request["environment"], request["input"]["path"], request["working_dir"]) == (
            "himalia/base:1",
            str(work),
            str(work),
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"script": "train.py", "command": "x"},
            {"command": []},
            {"command": "x", "args": ["y"]},
            {"script": "train.py", "parameters": {"a": 1}},
            {"notebook": "nb/a.ipynb", "args": ["y"]},
            {"script": "train.py", "environment": None},
            {"script": "train.py", "max_run": "soon"},
            {"script": "gone.py"},
        ],
    )
    def test_what_makes_no_sense_is_refused_before_a_job_is_made(
        self, himalia: Himalia, platform: ScriptedPlatform, work: Path, wrong: dict[str, Any]
    ) -> None:
        takes_inputs(platform)
        with pytest.raises(errors.Invalid):
            himalia.jobs.submit(**{"environment": "vision", **wrong})
        assert platform.calls("POST", "/jobs") == []

    def test_what_was_packed_is_told_and_the_temporary_file_is_gone_after(
        self, himalia: Himalia, platform: ScriptedPlatform, work: Path
    ) -> None:
        takes_inputs(platform)
        told = []
        himalia.jobs.submit("train.py", environment="vision", packed=told.append)
        assert told[0].summary() == "packed 3 files, 16 B"
        assert not told[0].file.exists()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        (" 2H ", 7200),
        (45, 45),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations_as_people_write_them(text: Any, meant: int) -> None:
    assert seconds(text) == meant


@pytest.mark.parametrize(
    ("status", "code", "meant"),
    [
        ("Succeeded", 0, 0),
        ("Failed", 3, 3),
        ("Failed", 137, 137),
        ("Failed", None, 1),
        ("Failed", 0, 1),
        ("Failed", -9, 1),
        ("Failed", 256, 1),
        ("Stopped", None, 1),
        ("Stopped", 143, 143),
    ],
)
def test_a_jobs_end_as_an_exit_code(status: str, code: int | None, meant: int) -> None:
    from himalia.schema import Job as Info
    from himalia.schema import from_wire

    assert exit_status(from_wire(Info, job(status, exit_code=code))) == meant


def output(path: str, data: bytes, change: str = "new") -> dict[str, Any]:
    return {
        "path": path,
        "size_bytes": len(data),
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "change": change,
    }


class TestOutputs:
    @pytest.fixture
    def finished(self, himalia: Himalia, platform: ScriptedPlatform) -> Any:
        """A job that is over, with these outputs."""

        def with_outputs(*files: tuple[str, bytes, str], submitted: datetime | None = None, **more: Any) -> Job:
            platform.on(
                "GET",
                "/jobs/job-1",
                ok(job("Succeeded", created_at=(submitted or datetime.now(UTC)).isoformat(), **more)),
            )
            platform.on("GET", "/jobs/job-1/outputs", page(*(output(*file) for file in files)))
            for path, data, _ in files:
                platform.on("GET", f"/jobs/job-1/outputs/{path.replace(' ', '%20')}", Answer(200, data))
            return himalia.jobs.get("job-1")

        return with_outputs

    def test_new_and_changed_files_are_written_with_their_folders(self, finished: Any, tmp_path: Path) -> None:
        fetched = finished(("model.bin", b"\0\1", "new"), ("deep/er/a b.txt", b"text", "new")).fetch_outputs(
            tmp_path / "out"
        )
        assert fetched.written == ["model.bin", "deep/er/a b.txt"]
        assert (tmp_path / "out/deep/er/a b.txt").read_bytes() == b"text"
        assert sorted(os.listdir(tmp_path / "out")) == ["deep", "model.bin"]

    def test_a_source_that_nobody_touched_since_is_replaced_and_keeps_its_mode(
        self, finished: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "a.py").write_text("old")
        (tmp_path / "a.py").chmod(0o755)
        fetched = finished(
            ("a.py", b"new", "changed"), submitted=datetime.now(UTC) + timedelta(seconds=5)
        ).fetch_outputs(tmp_path)
        assert fetched.written == ["a.py"]
        assert (tmp_path / "a.py").read_text() == "new"
        assert (tmp_path / "a.py").stat().st_mode & 0o777 == 0o755

    def test_what_was_edited_after_the_submit_is_kept_unless_forced(self, finished: Any, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_text("mine")
        # Set back, as tools do: the edit still shows in the change time.
        os.utime(tmp_path / "a.py", (1, 1))
        job = finished(("a.py", b"theirs", "changed"), submitted=datetime.now(UTC) - timedelta(hours=1))
        assert job.fetch_outputs(tmp_path).kept == ["a.py"]
        assert (tmp_path / "a.py").read_text() == "mine"
        assert job.fetch_outputs(tmp_path, force=True).written == ["a.py"]
        assert (tmp_path / "a.py").read_text() == "theirs"

    def test_a_new_file_does_not_replace_one_of_yours(self, finished: Any, tmp_path: Path) -> None:
        (tmp_path / "model.bin").write_text("mine")
        job = finished(("model.bin", b"theirs", "new"), submitted=datetime.now(UTC) + timedelta(seconds=5))
        assert job.fetch_outputs(tmp_path).kept == ["model.bin"]
        assert (tmp_path / "model.bin").read_text() == "mine"

    def test_doing_it_twice_changes_nothing(self, finished: Any, tmp_path: Path) -> None:
        job = finished(("model.bin", b"data", "new"))
        job.fetch_outputs(tmp_path)
        again = job.fetch_outputs(tmp_path)
        assert (again.written, again.unchanged, again.kept) == ([], ["model.bin"], [])

    @pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "out/x"])
    def test_no_name_leads_out_of_the_folder(self, finished: Any, tmp_path: Path, path: str) -> None:
        folder = tmp_path / "here"
        folder.mkdir()
        (folder / "out").symlink_to(tmp_path)
        with pytest.raises(errors.Invalid, match="outside of"):
            finished((path, b"data", "new")).fetch_outputs(folder, force=True)
        assert os.listdir(tmp_path) == ["here"]

    def test_a_file_that_arrives_damaged_is_not_put_in_place(
        self, finished: Any, platform: ScriptedPlatform, tmp_path: Path
    ) -> None:
        job = finished(("model.bin", b"data", "new"))
        platform.on("GET", "/jobs/job-1/outputs/model.bin", Answer(200, b"dat"))
        with pytest.raises(errors.Unavailable, match="did not arrive whole"):
            job.fetch_outputs(tmp_path)
        assert os.listdir(tmp_path) == []

    def test_beside_the_source_is_the_projects_folder_in_a_workspace(
        self, platform: ScriptedPlatform, finished: Any, work: Path
    ) -> None:
        finished(("model.bin", b"data", "new"), input={"digest": "sha256:0", "path": str(work)})
        with Himalia(Login(platform.url, TOKEN, "workspace"), environ={"HIMALIA_WORKSPACE": "ws-1"}) as inside:
            assert inside.jobs.get("job-1").fetch_outputs().folder == work

    def test_on_a_laptop_it_is_the_project_one_stands_in_and_else_has_to_be_said(
        self, finished: Any, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = finished(("model.bin", b"data", "new"), input={"digest": "sha256:0", "path": "/job/work"})
        monkeypatch.chdir(work / "nb")
        assert job.fetch_outputs().folder == work
        monkeypatch.chdir(work.parent)
        with pytest.raises(errors.Invalid, match="--to DIR"):
            job.fetch_outputs()

    def test_an_output_that_is_gone_is_an_error(
        self, himalia: Himalia, finished: Any, platform: ScriptedPlatform, tmp_path: Path
    ) -> None:
        job = finished(("model.bin", b"data", "new"))
        platform.on("GET", "/jobs/job-1/outputs/model.bin", problem(404, "not_found", "It is deleted."))
        with pytest.raises(errors.NotFound):
            job.fetch_outputs(tmp_path)
        assert os.listdir(tmp_path) == []
