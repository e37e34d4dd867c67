"""Jobs on the real thing: their limits, their logs, submits without a workspace, and a workspace that its owner broke."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platform_fixture import Person, Platform, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

Make = Callable[..., Person]


@pytest.fixture(scope="module")
def ada(platform: Platform) -> Iterator[Person]:
    """One person with a running workspace and a group, for all of these."""
    somebody = platform.person("jobs-ada")
    platform.group("jobs-vision", somebody)
    somebody.start()
    yield somebody
    somebody.session.close()
    somebody.container().stop(timeout=5)


def shell(ada: Person, script: str) -> str:
    """Run lines of bash in the workspace; the first that fails is the test's."""
    return ada.run("bash", "-ec", script)


def submit(ada: Person, script: str) -> str:
    """Lines that end in a `himalia job submit --wait`; the answer is what a person sees: packing, log, end."""
    return shell(ada, f"exec 2>&1\n{script}")


def jobs(ada: Person) -> list[dict[str, object]]:
    """Newest first."""
    found = json.loads(ada.run("himalia", "job", "list", "--json"))
    return found["items"] if isinstance(found, dict) else found


def test_a_job_that_lasts_too_long_ends_with_the_time_limit_as_its_reason(ada: Person):
    shell(
        ada,
        """
        mkdir -p ~/long && cd ~/long && echo 'import time; print("begun", flush=True); time.sleep(600)' > wait.py
        himalia job submit wait.py --max-run 3s --wait && exit 1 || true
        """,
    )
    job = jobs(ada)[0]
    assert (job["status"], job["reason_code"]) == ("Failed", "max_duration_exceeded")


def test_a_job_needs_no_running_workspace_and_a_submit_from_outside_appears_below_job(ada: Person, tmp_path: Path):
    ada.stop()
    try:
        project = tmp_path / "outside"
        project.mkdir()
        (project / "pyproject.toml").touch()
        (project / "word.txt").write_text("carried along")
        (project / "run.py").write_text("import os; print(open('word.txt').read(), os.getcwd())")
        place = ada.platform.home.place
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HIMALIA_", "JUPYTERHUB_"))} | {
            "HIMALIA_URL": f"{place.control_url}/services/himalia",
            "HIMALIA_TOKEN": ada.token,
        }
        command = [
            str(Path(sys.executable).with_name("himalia")),
            "job",
            "submit",
            "run.py",
            "-e",
            "himalia/base",
            "--wait",
        ]
        done = subprocess.run(
            command, cwd=project, env=environ, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "carried along /job/outside" in done.stdout
    finally:
        ada.start()


def test_a_users_broken_packages_stop_neither_server_nor_save_nor_script_jobs(ada: Person):
    ada.run(
        "pip", "install", "-q", "--disable-pip-version-check", "typing_extensions==4.5.0", "sqlalchemy<2", "pydantic<2"
    )
    ada.stop()
    ada.start()
    assert json.loads(ada.run("himalia", "whoami", "--json"))["name"] == ada.name
    assert ada.run("python", "-c", "import himalia; print(himalia.connect().me().name)").strip() == ada.name
    ada.run("code-server", "--version")
    said = json.loads(ada.run("himalia", "env", "save", "jobs-broken", "--json"))
    assert said["phase"] == "Saved"
    assert any(w.startswith("kernel_broken") for w in said["warnings"]), said["warnings"]
    shell(ada, "mkdir -p ~/script && cd ~/script && echo 'print(\"still runs\")' > a.py")
    assert "still runs" in submit(ada, "cd ~/script && himalia job submit a.py -e jobs-broken --wait")


def test_the_container_is_gone_and_the_log_is_whole(ada: Person):
    submit(
        ada,
        "mkdir -p ~/log && cd ~/log && echo 'for i in range(20000): print(i, \"x\" * 40)' > a.py && himalia job submit a.py -e himalia/base --wait >/dev/null",
    )
    job = str(jobs(ada)[0]["id"])
    until(
        lambda: not [c for c in ada.platform.labelled("workload") if job.removeprefix("job-") in c.name],
        "the job's container is gone",
    )
    lines = ada.run("himalia", "job", "logs", job).splitlines()
    assert [line.split()[0] for line in lines[:20000]] == [str(i) for i in range(20000)]
