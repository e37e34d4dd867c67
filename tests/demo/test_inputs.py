"""What a job finds of a project, in real containers: every way of naming a file means what it meant where the person was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demo.conftest import ENVIRONMENT, Somebody
from himalia import errors

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


def notebook(*cells: str) -> str:
    """A notebook; its first cell holds the parameters' defaults, as papermill looks for them."""

    def cell(place: int, source: str) -> dict[str, Any]:
        tags = {"tags": ["parameters"]} if place == 0 else {}
        return {
            "id": f"cell-{place}",
            "cell_type": "code",
            "execution_count": None,
            "metadata": tags,
            "outputs": [],
            "source": source,
        }

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = [cell(place, source) for place, source in enumerate(cells)]
    return json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


def submit(ada: Somebody, words: str, *, code: int = 0, cwd: str = "~", environment: str = ENVIRONMENT) -> str:
    """`himalia job submit --wait` in the workspace's terminal; what it printed."""
    return ada.sh(f"himalia job submit -e {environment} --wait {words}", code=code, cwd=cwd)


def last(ada: Somebody) -> Any:
    return ada.himalia.jobs.list(limit=1)[0]


def test_relative_absolute_sibling_and_parent_paths_mean_what_they_meant(ada: Somebody) -> None:
    ada.workspace.write("~/study/data/x.txt", "own data")
    ada.workspace.write("~/data/y.txt", "data beside the project")
    ada.workspace.write("~/study/helper.py", "word = 'sibling module'")
    ada.workspace.write("~/shared/inputs-vision/z.txt", "the group's data")
    ada.workspace.write(
        "~/study/train.py",
        "import helper, os, pathlib\n"
        "print(os.getcwd(), helper.word)\n"
        "for name in ('data/x.txt', '../data/y.txt', '/home/jovyan/study/data/x.txt', '/home/jovyan/data/y.txt', '../shared/inputs-vision/z.txt'):\n"
        "    print(pathlib.Path(name).read_text())\n"
        "pathlib.Path('made.txt').write_text('made')\n",
    )
    said = submit(ada, "train.py", cwd="~/study")
    assert "/home/jovyan/study sibling module" in said
    assert [line for line in said.splitlines() if "data" in line and "packed" not in line] == [
        "own data",
        "data beside the project",
        "own data",
        "data beside the project",
        "the group's data",
    ]
    # Outputs are the job's until somebody puts them back.
    assert ada.sh("test -e ~/study/made.txt", code=1) == ""
    ada.sh(f"himalia job outputs {last(ada).id}")
    assert ada.sh("cat ~/study/made.txt") == "made"


def test_the_working_directory_is_where_the_person_was(ada: Somebody) -> None:
    ada.workspace.write("~/study/where.py", "import os; print(os.getcwd())")
    assert "/home/jovyan\n" in submit(ada, "study/where.py", cwd="~")
    assert "/home/jovyan/study\n" in submit(ada, "where.py", cwd="~/study")
    ada.sh("mkdir -p ~/study/deep")
    ada.sh("touch ~/study/.himaliaignore")
    assert "/home/jovyan/study/deep\n" in submit(ada, "../where.py", cwd="~/study/deep")


def test_a_notebook_at_homes_root_runs_there_and_comes_back_executed(ada: Somebody) -> None:
    ada.workspace.write("~/helper_of_home.py", "word = 'beside'")
    ada.workspace.write("~/data/y.txt", "data beside the project")
    ada.workspace.write(
        "~/report.ipynb",
        notebook(
            "n = 1",
            "import helper_of_home, os; print(os.getcwd(), helper_of_home.word, open('data/y.txt').read(), n * 2)",
        ),
    )
    said = submit(ada, "report.ipynb --param n=21")
    assert "Your home is no project folder" in said
    assert "/home/jovyan beside data beside the project 42" in said, said
    job = last(ada)
    executed = json.loads(job.outputs.read("report.ipynb"))
    assert "42" in json.dumps(executed["cells"])


def test_data_over_the_limits_stays_live_and_code_does_not(ada: Somebody) -> None:
    ada.sh("mkdir -p ~/big/data && truncate -s 30M ~/big/data/images.bin")
    ada.workspace.write(
        "~/big/train.py",
        "import os; print(os.path.getsize('data/images.bin')); open('data/index.txt', 'w').write('live')",
    )
    said = submit(ada, "train.py", cwd="~/big")
    assert "linked data/ (31.5 MB, stays live)" in said
    assert "31457280\n" in said
    assert ada.sh("cat ~/big/data/index.txt") == "live"
    assert last(ada).outputs.list() == []


def test_an_editable_install_is_the_code_as_it_was_at_submit(ada: Somebody) -> None:
    ada.workspace.write(
        "~/tool/pyproject.toml",
        "[project]\nname = 'mytool'\nversion = '1'\n[tool.setuptools]\npy-modules = ['mytool']\n"
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n",
    )
    ada.workspace.write("~/tool/mytool.py", "word = 'as submitted'")
    ada.workspace.write("~/tool/use.py", "import time, mytool; print(mytool.word, mytool.__file__)")
    ada.sh("pip install -q --no-input -e ~/tool")
    version = ada.workspace.save("tool", timeout=900)
    ada.sh(f"himalia job submit -e {version.ref} tool/use.py; echo \"word = 'edited'\" > ~/tool/mytool.py")
    job = last(ada).wait(timeout=300)
    assert job.log() == "as submitted /home/jovyan/tool/mytool.py\n"


def test_from_outside_a_workspace_the_folder_appears_below_job(
    ada: Somebody, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "one" / "my project"
    (work / "data").mkdir(parents=True)
    (work / "pyproject.toml").touch()
    (work / "data/x.txt").write_text("own data")
    (work / "train.py").write_text(
        "import os; print(os.getcwd(), open('data/x.txt').read()); open('made.txt', 'w').write('made')"
    )
    monkeypatch.chdir(work)
    job = ada.himalia.jobs.submit("train.py", environment=ENVIRONMENT).wait(timeout=300, check=True)
    assert job.log() == "/job/my_project own data\n"
    assert job.fetch_outputs(tmp_path / "back").written == ["made.txt"]
    assert (tmp_path / "back/made.txt").read_text() == "made"


def test_what_a_job_made_before_it_ran_out_of_memory_comes_back(ada: Somebody) -> None:
    ada.workspace.write(
        "~/hungry/train.py",
        "open('checkpoint.txt', 'w').write('epoch 3')\nprint('begun', flush=True)\nheld = []\nwhile True: held.append(bytearray(64 << 20))\n",
    )
    submit(ada, "train.py", cwd="~/hungry", code=137)
    job = last(ada).refresh()
    assert (job.status, job.info.reason_code) == ("Failed", "out_of_memory")
    assert job.outputs.read("checkpoint.txt") == b"epoch 3"
    assert job.log().startswith("begun\n")


def test_a_job_has_no_token_and_says_so(ada: Somebody) -> None:
    ada.sh("mkdir -p ~/quiet")
    said = submit(ada, "--command 'himalia whoami'", code=4, cwd="~/quiet")
    assert "This job has no token" in said
    assert "TOKEN" not in submit(ada, "--command env", cwd="~/quiet").split("packed", 1)[1]


def test_the_command_and_the_sdk_outlive_what_people_install(ada: Somebody) -> None:
    # A workspace of its own, since its kernel does not live after this.
    workspace = ada.himalia.workspaces.start("old", timeout=300)
    workspace.run(["pip", "install", "-q", "--no-input", "typing_extensions==4.5.0", "sqlalchemy<2", "pydantic<2"])
    with pytest.raises(errors.HimaliaError, match="kernel does not start"):
        workspace.run(["true"])
    terminal = ada.person.run
    assert json.loads(terminal("himalia", "whoami", "--json", name="old"))["name"] == ada.person.name
    assert (
        terminal("/opt/venv/bin/python", "-c", "import himalia; print(himalia.me().name)", name="old")
        == f"{ada.person.name}\n"
    )
    terminal("bash", "-c", "mkdir -p ~/small && echo 'print(6 * 7)' > ~/small/answer.py", name="old")
    said = terminal("bash", "-c", f"cd ~/small && himalia job submit answer.py -e {ENVIRONMENT} --wait", name="old")
    assert "42\n" in said
    version = workspace.save("old", timeout=900)
    assert any("kernel_broken" in warning for warning in version.warnings)
    workspace.delete()
