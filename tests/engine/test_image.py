"""The base image as it is built: two prefixes, a server that nothing a person does can break, jobs as the contract says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "images"))
import build  # noqa: E402

pytestmark = pytest.mark.docker

RUNNER = "/opt/himalia/bin/himalia-run"
SERVER_PROBE = Path(__file__).with_name("image_probe.py")


def docker(
    *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, input=stdin, timeout=timeout)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.fixture(scope="session")
def image() -> str:
    """HIMALIA_TEST_IMAGE, else the base image of this very tree."""
    tag = os.environ.get("HIMALIA_TEST_IMAGE") or build.stages()["base"].tag
    if docker("image", "inspect", tag, check=False).returncode:
        why = f"{tag} is not built; run: python images/build.py --only base"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    return tag


class Container:
    """A container of the image that idles, so that a test can act in it as a person and run the runner's verbs."""

    def __init__(self, image: str, folder: Path, network: str) -> None:
        self.folder = folder
        self.name = f"images-test-{uuid.uuid4().hex[:8]}"
        index = [f"--env={name}" for name in ("PIP_INDEX_URL", "http_proxy", "https_proxy") if os.environ.get(name)]
        docker(
            *("run", "--detach", "--name", self.name, "--network", network, *index),
            *("--mount", f"type=bind,source={folder},target=/run/himalia/workload"),
            *("--entrypoint", "sleep", image, "infinity"),
        )

    def sh(self, script: str, user: str = "jovyan", check: bool = True) -> subprocess.CompletedProcess[str]:
        return docker("exec", "--user", user, self.name, "bash", "-c", script, check=check)

    def write(self, path: str, content: str) -> None:
        docker("exec", "--interactive", "--user", "jovyan", self.name, "bash", "-c", f"cat > {path}", stdin=content)

    def job(self, **spec: object) -> tuple[dict, str]:
        """Run a job here; its result and its log."""
        for left in ("log", "result.json"):
            (self.folder / left).unlink(missing_ok=True)
        self.spec({"cwd": "/home/jovyan", "env": {}, "grace_seconds": 5, "kind": "command", "argv": [], **spec})
        done = docker("exec", self.name, RUNNER, "job", check=False)
        result = json.loads((self.folder / "result.json").read_text())
        assert done.returncode == result["exit_code"]
        return result, (self.folder / "log").read_text()

    def boot_check(self) -> dict:
        self.spec({"timeout_seconds": 120, "env": {}})
        docker("exec", self.name, RUNNER, "boot-check", check=False)
        return json.loads((self.folder / "result.json").read_text())

    def spec(self, spec: dict) -> None:
        (self.folder / "spec.json").write_text(json.dumps(spec))

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name)


@pytest.fixture(scope="module")
def offline(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    container = Container(image, tmp_path_factory.mktemp("offline"), "none")
    yield container
    container.remove()


@pytest.fixture
def fresh(image: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Container]:
    container = Container(image, tmp_path, getattr(request, "param", "bridge"))
    yield container
    container.remove()


NOTEBOOK = {
    "cells": [{"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": "import sys; print(sys.prefix)"}],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip

LAB_KERNEL = """
import asyncio
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
client.execute_interactive("import sys; print(sys.prefix)", timeout=60)
client.stop_channels(); manager.shutdown_kernel(now=True)
"""


def prefixes(container: Container) -> list[str]:
    """`sys.prefix` as a kernel of the server's own Python sees it, and as papermill's does."""
    container.write("/tmp/lab.py", LAB_KERNEL)
    container.write("/home/jovyan/where.ipynb", json.dumps(NOTEBOOK))
    kernel, kernel_log = container.job(argv=["/opt/himalia/bin/python", "/tmp/lab.py"])
    notebook, notebook_log = container.job(kind="notebook", notebook="/home/jovyan/where.ipynb")
    assert (kernel["exit_code"], notebook["exit_code"]) == (0, 0), kernel_log + notebook_log
    executed = json.loads(container.sh("cat where.ipynb").stdout)
    printed = executed["cells"][-1]["outputs"][0]["text"]
    assert "".join(printed).strip() in notebook_log, "what cells print belongs in the log"
    return [kernel_log.strip(), "".join(printed).strip()]


def test_the_image_says_nothing_but_how_to_start(image: str) -> None:
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image).stdout)
    assert config["User"] == "root"
    assert config["Entrypoint"] == [RUNNER]
    assert config["Cmd"] == ["workspace"]
    assert config["WorkingDir"] == "/home/jovyan"
    assert sorted(entry.partition("=")[0] for entry in config["Env"]) == ["LANG", "PATH"]
    assert dict(entry.split("=", 1) for entry in config["Env"])["PATH"].startswith("/opt/venv/bin:")


def test_no_build_setting_is_in_the_images_history(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert not [name for name in build.NETWORK if name in history]


def test_it_boots_without_a_network(offline: Container) -> None:
    result = offline.boot_check()
    assert (result["ok"], result["reason"], result["warnings"], result["message"]) == (True, "", [], ""), result[
        "log_tail"
    ]
    names = {installer: {name for name, _ in pairs} for installer, pairs in result["packages"].items()}
    assert {"bash", "git", "sudo"} <= names["dpkg"]
    assert {"himalia", "ipykernel", "pip"} <= names["pip"]
    assert names["conda"] == set()


def test_kernels_run_in_the_users_prefix(offline: Container) -> None:
    assert prefixes(offline) == ["/opt/venv", "/opt/venv"]


def test_kernels_stay_there_after_ipykernel_is_upgraded(fresh: Container) -> None:
    fresh.sh("pip install --quiet --upgrade --force-reinstall --no-deps ipykernel")
    assert fresh.sh("test -e /opt/venv/share/jupyter/kernels/python3/kernel.json").returncode == 0
    assert prefixes(fresh) == ["/opt/venv", "/opt/venv"]


def test_a_job_keeps_order_code_and_environment(offline: Container) -> None:
    script = "import os, sys; [print(f'{s} {i}', file=getattr(sys, s)) for i in range(3) for s in ('stdout', 'stderr')]; print(os.environ['A'], os.getuid()); sys.exit(3)"
    result, log = offline.job(argv=["python", "-c", script], env={"A": "b"}, kind="script")
    assert log.splitlines() == [*(f"{stream} {i}" for i in range(3) for stream in ("stdout", "stderr")), "b 1000"]
    assert (result["exit_code"], result["signal"], result["error"]) == (3, None, None)
    assert result["started_at"] < result["ended_at"]


def test_a_job_that_cannot_begin_says_why(offline: Container) -> None:
    result, log = offline.job(argv=["python"], cwd="/home/jovyan/gone")
    assert (result["exit_code"], result["error"]) == (127, "The working directory /home/jovyan/gone is not there.")
    assert log == f"himalia: {result['error']}\n"
    result, _ = offline.job(argv=["no-such-program"])
    assert (result["exit_code"], result["error"]) == (127, "no-such-program is not there or not on PATH.")


def test_a_killed_job_has_its_signal(offline: Container) -> None:
    result, _ = offline.job(argv=["sh", "-c", "kill -KILL $$"])
    assert (result["exit_code"], result["signal"]) == (137, signal.SIGKILL)


def test_a_stopped_job_may_end_in_its_own_time(image: str, tmp_path: Path) -> None:
    script = "import signal, sys; signal.signal(15, lambda *_: sys.exit('saved')); print('begun'); signal.pause()"
    (tmp_path / "spec.json").write_text(json.dumps({"argv": ["python", "-c", script], "cwd": "/home/jovyan"}))
    name = f"images-test-{uuid.uuid4().hex[:8]}"
    docker(
        "run",
        "--detach",
        "--name",
        name,
        "--network",
        "none",
        "--volume",
        f"{tmp_path}:/run/himalia/workload",
        image,
        "job",
    )
    try:
        docker(
            "exec", name, "bash", "-c", "until grep -q begun /run/himalia/workload/log; do sleep 0.1; done", timeout=60
        )
        docker("stop", "-t", "30", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "1"
    finally:
        docker("rm", "--force", name)
    assert (tmp_path / "log").read_text() == "begun\nsaved\n"
    assert json.loads((tmp_path / "result.json").read_text())["exit_code"] == 1


def test_a_notebook_takes_parameters_and_keeps_its_failure(offline: Container) -> None:
    cells = [
        {"cell_type": "code", "id": "p", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None, "source": "epochs = 1"},
        {"cell_type": "code", "id": "q", "metadata": {}, "outputs": [], "execution_count": None, "source": "print('epochs', epochs)\n1 / 0"},
    ]  # fmt: skip
    offline.write("/home/jovyan/train.ipynb", json.dumps({**NOTEBOOK, "cells": cells}))
    result, log = offline.job(kind="notebook", notebook="/home/jovyan/train.ipynb", parameters={"epochs": 7})
    assert result["exit_code"] == 1
    assert result["error"] is None
    assert "epochs 7" in log
    assert "ZeroDivisionError" in log
    assert "ZeroDivisionError" in offline.sh("cat train.ipynb").stdout


def test_the_workspace_makes_mounted_folders_usable(image: str, tmp_path: Path) -> None:
    home, group = (f"images-test-{uuid.uuid4().hex[:8]}" for _ in range(2))
    look = "id -un; pwd; stat -c '%U %n' . shared shared/vision; ls -A; touch shared/vision/x; echo $TOKEN $JUPYTER_PATH; exit 5"
    (tmp_path / "environment.json").write_text(json.dumps({"env": {"TOKEN": "t"}, "argv": ["bash", "-c", look]}))
    tmp_path.chmod(0o755)
    try:
        done = docker(
            *(
                "run",
                "--rm",
                "--network",
                "none",
                "--volume",
                f"{home}:/home/jovyan",
                "--volume",
                f"{group}:/home/jovyan/shared/vision",
            ),
            *("--volume", f"{tmp_path}:/run/himalia/workspace:ro", image),
            check=False,
        )
    finally:
        docker("volume", "rm", home, group)
    assert done.returncode == 5
    assert done.stdout.splitlines()[:5] == [
        "jovyan",
        "/home/jovyan",
        "jovyan .",
        "jovyan shared",
        "jovyan shared/vision",
    ]
    assert {".bashrc", ".profile", ".local"} <= set(done.stdout.splitlines()[5:])
    assert done.stdout.splitlines()[-1] == "t /opt/himalia/share/himalia:/opt/venv/share/jupyter"


def test_a_login_shell_keeps_the_users_python_first(offline: Container) -> None:
    offline.write("/tmp/where.sh", "command -v python; echo $PATH")
    _, plain = offline.job(argv=["bash", "/tmp/where.sh"])
    login = offline.sh("HIMALIA_PATH=$PATH bash -l /tmp/where.sh").stdout
    assert plain.splitlines()[0] == "/opt/venv/bin/python"
    assert login == plain


def test_editor_and_tensorboard_answer_on_unix_sockets(offline: Container) -> None:
    offline.write("/tmp/image_probe.py", SERVER_PROBE.read_text())
    seen = json.loads(offline.sh("/opt/himalia/bin/python -I /tmp/image_probe.py", user="root").stdout)
    assert seen["answers"]["vscode/?folder=/home/jovyan"] == [200, True]
    assert seen["answers"]["tensorboard/"] == [200, True]
    assert seen["answers"]["tensorboard/data/environment"] == [200, True]
    assert seen["launcher"] == ["TensorBoard", "VS Code"]
    assert seen["kernels"] == ["python3"]
    assert {"himalia-lab", "@jupyter-widgets/jupyterlab-manager"} <= set(seen["extensions"])
    # the server's own port and the stand-in hub's: neither program opened one
    assert seen["tcp_listeners"] == 2
    assert seen["activity_after_polling"] == seen["activity_before_polling"]


def test_command_line_and_library_are_there(offline: Container) -> None:
    assert "Usage" in offline.sh("himalia --help").stdout
    assert offline.sh("command -v himalia").stdout.strip() == "/usr/local/bin/himalia"
    assert offline.sh("python -c 'import himalia; print(himalia.__file__)'").stdout.startswith("/opt/venv/")
    assert offline.sh("code-server --version").stdout.startswith("4.139.1")
    assert offline.sh("node --version").stdout.startswith("v24.")
    assert offline.sh("npm --version && sudo -n id -u").stdout.endswith("\n0\n")
    for tool in ("git", "curl", "wget", "vim", "nano", "ssh", "htop", "tmux", "unzip", "rsync", "jq", "gcc"):
        assert offline.sh(f"command -v {tool}").returncode == 0


BREAK = 'pip install --quiet "typing_extensions==4.5.0" "sqlalchemy<2" "pydantic<2"'


def test_a_broken_kernel_breaks_nothing_else(fresh: Container) -> None:
    fresh.sh(BREAK)
    result = fresh.boot_check()
    assert result["ok"], result["message"] + result["log_tail"]
    (warning,) = result["warnings"]
    assert warning.startswith("kernel_broken: ")
    assert "you have typing-extensions 4.5.0" in warning.replace("_", "-")
    assert ["typing_extensions", "4.5.0"] in result["packages"]["pip"]

    script, log = fresh.job(argv=["python", "-c", "import himalia, typing_extensions; print('fine')"], kind="script")
    assert (script["exit_code"], log) == (0, "fine\n")
    fresh.write("/home/jovyan/a.ipynb", json.dumps(NOTEBOOK))
    notebook, _ = fresh.job(kind="notebook", notebook="/home/jovyan/a.ipynb")
    assert notebook["exit_code"] != 0
    assert "Repair it in a terminal with: pip install --upgrade ipykernel" in notebook["error"]
    assert "Usage" in fresh.sh("himalia --help").stdout

    fresh.sh("pip install --quiet --upgrade ipykernel")
    assert fresh.boot_check()["warnings"] == []


@pytest.mark.parametrize("fresh", ["none"], indirect=True)
def test_the_server_outlives_debians_python(fresh: Container) -> None:
    fresh.sh("sudo apt-get purge -y --allow-remove-essential python3.11-minimal libpython3.11-minimal")
    assert fresh.sh("python --version", check=False).returncode != 0
    result = fresh.boot_check()
    assert result["ok"], result["message"] + result["log_tail"]
    assert result["warnings"][0].startswith("kernel_broken: ")
    assert result["packages"]["pip"] == []


@pytest.mark.parametrize("fresh", ["none"], indirect=True)
def test_a_server_that_does_not_start_fails_the_check(fresh: Container) -> None:
    fresh.sh(
        "echo 'raise SystemExit(\"out of order\")' > /opt/himalia/lib/python3.13/site-packages/jupyterhub/singleuser/__init__.py",
        user="root",
    )
    result = fresh.boot_check()
    assert (result["ok"], result["reason"]) == (False, "boot_check")
    assert result["message"] == "The server ended with 1 before it answered."
    assert result["log_tail"].splitlines()[-1] == "out of order"


def test_pythonpath_of_a_person_reaches_their_kernels_and_not_our_server(offline: Container) -> None:
    offline.sh(
        "mkdir -p /tmp/mine && echo 'raise SystemExit(9)' > /tmp/mine/traitlets.py && echo 'x = 1' > /tmp/mine/mine.py"
    )
    offline.write(
        "/home/jovyan/mine.ipynb",
        json.dumps(
            NOTEBOOK | {"cells": [NOTEBOOK["cells"][0] | {"source": "import os; print(os.environ['PYTHONPATH'])"}]}
        ),
    )
    offline.sh(
        "rm /tmp/mine/traitlets.py && mkdir /tmp/mine/papermill && echo 'raise SystemExit(9)' > /tmp/mine/papermill/__init__.py"
    )
    result, log = offline.job(kind="notebook", notebook="/home/jovyan/mine.ipynb", env={"PYTHONPATH": "/tmp/mine"})
    assert (result["exit_code"], "/tmp/mine" in log) == (0, True)
