"""What the server half does with files and the control plane, without a Jupyter server."""

from __future__ import annotations

from pathlib import Path

import pytest
from control import Running, job

from himalia.client import Himalia
from himalia.errors import Invalid, NotFound
from himalia.job import Fetched
from himalia.login import Login
from himalia_lab.jobs import Submission, locate, put_back, submit, told


@pytest.fixture
def visitor(platform: Running):
    with Himalia(Login(url=platform.url, token="the-visitor", source="page")) as himalia:
        yield himalia


def test_a_script_runs_in_its_own_folder_with_its_siblings(platform: Running, project: Path, visitor: Himalia):
    wanted = Submission(
        path="digits/train.py",
        environment="ada/vision:3",
        machine="large",
        arguments=["--lr", "0.1"],
        max_run_seconds=60,
    )
    made, sentence = submit(visitor, project.parent, wanted)
    body = next(request["body"] for request in platform.control.requests if "body" in request)
    assert body["kind"] == "script"
    assert body["script"] == "train.py"
    assert body["working_dir"] == str(project)
    assert body["arguments"] == ["--lr", "0.1"]
    assert (body["machine"], body["environment"], body["max_run_seconds"]) == ("large", "ada/vision:3", 60)
    assert {"train.py", "model.py"} <= set(platform.control.names_in(body["input"]["digest"]))
    assert "big.bin" not in platform.control.names_in(body["input"]["digest"])
    assert made.display_name == "train.py"
    assert sentence.startswith("packed ")


def test_a_notebook_takes_parameters(platform: Running, project: Path, visitor: Himalia):
    wanted = Submission(path="/digits/eval.ipynb", environment="ada/vision:3", parameters={"epochs": 2})
    made, _ = submit(visitor, project.parent, wanted)
    body = next(request["body"] for request in platform.control.requests if "body" in request)
    assert (body["kind"], body["notebook"], body["parameters"]) == ("notebook", "eval.ipynb", {"epochs": 2})
    assert made.kind == "notebook"


def test_every_call_is_made_with_the_visitors_token(platform: Running, project: Path, visitor: Himalia):
    submit(visitor, project.parent, Submission(path="digits/train.py", environment="ada/vision:3"))
    assert {request["token"] for request in platform.control.requests} == {"the-visitor"}


def test_outputs_come_back_beside_the_source_and_edited_files_stay(platform: Running, project: Path, visitor: Himalia):
    platform.control.jobs["job-1"] = job(
        "job-1",
        status="Succeeded",
        working_dir=str(project),
        input={"digest": "sha256:0", "path": str(project), "git_commit": "", "git_dirty": False},
    )
    platform.control.outputs["job-1"] = {"out/model.pkl": b"model", "model.py": b"theirs"}
    (project / "model.py").write_text("mine")
    fetched, sentence = put_back(visitor, "job-1")
    assert (project / "out/model.pkl").read_bytes() == b"model"
    assert (project / "model.py").read_text() == "mine"
    assert len(fetched.written) == 1
    assert sentence == "out/model.pkl put into ~/digits. Kept yours, since edited: model.py."


def test_outputs_of_a_job_from_elsewhere_say_how_to_get_them(platform: Running, visitor: Himalia):
    platform.control.jobs["job-1"] = job("job-1", status="Succeeded", working_dir="/job/digits")
    with pytest.raises(Invalid, match="himalia job outputs job-1 --to DIR"):
        put_back(visitor, "job-1")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (["no object"], "no JSON object"),
        ({"path": "train.py"}, "Choose an environment"),
        ({"path": "data.csv", "environment": "a/b"}, r"Only \.py, \.ipynb and \.sh"),
        ({"path": "train.py", "environment": 7}, "environment is not right"),
        ({"path": "train.py", "environment": "a/b", "arguments": [1]}, "arguments are a list of texts"),
        ({"path": "train.py", "environment": "a/b", "max_run_seconds": True}, "max_run_seconds is not right"),
        ({"path": "train.py", "environment": "a/b", "kind": "notebook"}, "runs as a script"),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(body: object, sentence: str):
    with pytest.raises(Invalid, match=sentence):
        Submission.read(body)


def test_a_path_stays_below_the_servers_folder(tmp_path: Path):
    (tmp_path / "outside.py").write_text("")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(Invalid, match="leads out"):
        locate(root, "../outside.py")
    with pytest.raises(NotFound, match="not there"):
        locate(root, "gone.py")


def test_what_was_put_back_is_told_in_sentences(tmp_path: Path):
    assert told(Fetched(tmp_path)) == "This job has no outputs."
    assert (
        told(Fetched(tmp_path, written=["a", "b"], unchanged=["c"])) == f"2 files put into {tmp_path}. c there already."
    )
    assert "d, e, f …" in told(Fetched(tmp_path, kept=["d", "e", "f", "g"]))
