"""The runner's parts, without a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from himalia.runner import boot, job, process, surroundings, workspace

ENV = {"PATH": os.environ["PATH"]}


def shell(script: str, cwd: Path, **more) -> process.Ending:
    return process.run(["/bin/sh", "-c", script], env=ENV, cwd=cwd, user=None, **more)


def test_a_command_ends_with_its_own_code(tmp_path: Path) -> None:
    assert shell("exit 7", tmp_path) == process.Ending(exit_code=7)


def test_a_killed_command_is_told_apart_from_one_that_ended(tmp_path: Path) -> None:
    assert shell("kill -KILL $$", tmp_path) == process.Ending(exit_code=137, signal=signal.SIGKILL)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    ending = process.run(["no-such-program"], env=ENV, cwd=tmp_path, user=None)
    assert ending == process.Ending(exit_code=127, error="no-such-program is not there or not on PATH.")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    ending = shell("true", tmp_path / "gone")
    assert ending == process.Ending(exit_code=127, error=f"The working directory {tmp_path / 'gone'} is not there.")


def test_a_file_that_may_not_run_is_126(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("1,2")
    ending = process.run([str(tmp_path / "data.txt")], env=ENV, cwd=tmp_path, user=None)
    assert ending.exit_code == 126
    assert ending.error == f"{tmp_path / 'data.txt'} could not be started: permission denied."


def test_both_streams_share_one_log_in_the_order_of_writing(tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shell("for i in 1 2 3; do echo out $i; echo err $i >&2; done", tmp_path, output=log)
    os.close(log)
    assert (tmp_path / "log").read_text().split() == [
        "out",
        "1",
        "err",
        "1",
        "out",
        "2",
        "err",
        "2",
        "out",
        "3",
        "err",
        "3",
    ]


def test_the_command_leads_a_session_of_its_own(tmp_path: Path) -> None:
    assert shell('test "$(ps -o sid= -p $$ | tr -d " ")" = "$$"', tmp_path).exit_code == 0


def test_signals_reach_the_whole_group(tmp_path: Path) -> None:
    loop = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    script = f"""
from pathlib import Path
from himalia.runner import process
command = ["/bin/sh", "-c", "({loop}) & {loop}"]
print(process.run(command, env={{"PATH": "/usr/bin:/bin"}}, cwd=Path({str(tmp_path)!r}), user=None).exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert [runner.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        runner.send_signal(signal.SIGTERM)
        assert sorted(runner.stdout.read().split("\n")) == ["", "3", "got it", "got it"]


def test_signal_handlers_are_as_before_after_a_run(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in process.FORWARDED}
    shell("true", tmp_path)
    assert {number: signal.getsignal(number) for number in process.FORWARDED} == before


def test_a_result_is_never_seen_half_written(tmp_path: Path) -> None:
    path, stop, seen = tmp_path / "result.json", threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            if path.exists():
                seen.append(json.loads(path.read_text())["text"][:1])

    reader = threading.Thread(target=watch)
    reader.start()
    deadline = time.monotonic() + 20
    while len(seen) < 50 and time.monotonic() < deadline:
        job.write(path, {"text": "x" * 100_000})
    stop.set()
    reader.join()
    assert set(seen) == {"x"}


def test_a_job_ignores_personal_start_up_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    env = job.environment(job.Spec(argv=["true"], cwd=Path("/"), env={"EPOCHS": "3"}))
    assert env["PYTHONNOUSERSITE"] == "1"
    assert env["PYTHONUNBUFFERED"] == "1"
    assert env["EPOCHS"] == "3"
    assert env["HOME"] == "/home/jovyan"
    assert not env["IPYTHONDIR"].startswith(env["HOME"])
    assert not env["JUPYTER_CONFIG_DIR"].startswith(env["HOME"])
    assert "TERM" not in env


def test_a_notebook_runs_in_place_in_the_users_kernel() -> None:
    spec = job.Spec(
        argv=[], cwd=Path("/home/jovyan/digits"), kind="notebook", notebook="/home/jovyan/digits/train.ipynb"
    )
    command = job.notebook_command(spec, Path("/run/himalia/job/parameters.yaml"))
    assert command[0] == "/opt/himalia/bin/papermill"
    assert command[-2:] == ["/home/jovyan/digits/train.ipynb"] * 2
    assert command[1:7] == ["--kernel", "python3", "--language", "python", "--cwd", "/home/jovyan/digits"]


def test_programs_of_ours_run_without_what_people_load_into_theirs() -> None:
    env = surroundings.server_environment({"PYTHONPATH": "/a", "LD_LIBRARY_PATH": "/b", "PATH": "/opt/venv/bin:/bin"})
    assert "PYTHONPATH" not in env
    assert "LD_LIBRARY_PATH" not in env
    assert (env["HIMALIA_PYTHONPATH"], env["HIMALIA_LD_LIBRARY_PATH"]) == ("/a", "/b")
    assert env["HIMALIA_PATH"] == "/opt/venv/bin:/bin"


def test_the_hubs_server_is_the_one_of_our_prefix() -> None:
    assert workspace.command(["jupyterhub-singleuser", "--debug"]) == [
        "/opt/himalia/bin/jupyterhub-singleuser",
        "--debug",
    ]
    assert workspace.command(["sleep", "1"]) == ["sleep", "1"]


def test_the_environment_file_cannot_say_who_the_user_is() -> None:
    env = workspace.server({"HOME": "/root", "USER": "root", "JUPYTERHUB_API_TOKEN": "t"})
    assert (env["HOME"], env["USER"], env["JUPYTERHUB_API_TOKEN"]) == ("/home/jovyan", "jovyan", "t")
    assert env["JUPYTERHUB_DEFAULT_URL"] == "/lab"


def me() -> process.User:
    return process.User(name="me", uid=os.getuid(), gid=os.getgid(), home=Path("/"))


def test_seeding_never_touches_what_is_there(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("mine")
    (tmp_path / ".profile").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "skeleton").write_text("ours")
    skeleton = {".bashrc": "ours", ".profile": "ours", "deep/er/settings.json": "{}", ".copy": tmp_path / "skeleton"}
    surroundings.seed(tmp_path, skeleton, me())
    assert (tmp_path / ".bashrc").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "deep/er/settings.json").read_text() == "{}"
    assert (tmp_path / ".copy").read_text() == "ours"


def test_runtime_folders_start_empty_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "run/user"
    folder.mkdir(parents=True)
    (folder / "stale.sock").write_text("")
    surroundings.make_runtime(me(), [folder])
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700


def test_mounts_are_found_with_the_folders_that_lead_to_them() -> None:
    mountinfo = "\n".join(
        (
            "611 520 0:53 / / rw,relatime - overlay overlay rw",
            "712 611 254:0 /a /home/jovyan rw,relatime - ext4 /dev/vda rw",
            r"713 712 254:0 /b /home/jovyan/shared/die\040Gruppe rw,relatime - ext4 /dev/vda rw",
            "714 611 254:0 /c /etc/hosts rw,relatime - ext4 /dev/vda rw",
        )
    )
    home = Path("/home/jovyan")
    mounts = list(surroundings.mounts_below(home, mountinfo))
    assert mounts == [home, home / "shared/die Gruppe"]
    assert surroundings.leading(mounts[1], home) == [home / "shared", home]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"argv": []}'])
def test_a_broken_environment_file_is_a_sentence_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "environment.json"
    path.write_text(content or "secret-token")
    monkeypatch.setattr(workspace, "ENVIRONMENT", path)
    assert workspace.run() == 125
    said = capsys.readouterr().err
    assert "start the workspace anew" in said
    assert "secret" not in said


def test_an_unknown_verb_says_which_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "himalia.runner", "dance"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage: himalia-run {workspace,job,boot-check}\n"


def test_the_runner_needs_nothing_but_the_standard_library() -> None:
    script = "import sys; import himalia.runner.boot; print([n for n in sys.modules if n.split('.')[0] in ('httpx', 'tornado')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_stand_in_hub_answers_what_a_server_asks() -> None:
    hub = boot.Hub("token")
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        assert boot.get(hub.server_port, "/hub/api", "")[0] == 200
        assert boot.get(hub.server_port, "/hub/api/user", "other")[0] == 403
        status, body = boot.get(hub.server_port, "/hub/api/user", "token")
        assert (status, json.loads(body)["name"]) == (200, "boot-check")
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def test_an_attempt_runs_once_also_when_its_container_is_started_again(tmp_path: Path):
    (tmp_path / "result.json").write_text('{"exit_code": 7}')
    assert job.run(tmp_path) == 7
    assert not (tmp_path / "log").exists()
