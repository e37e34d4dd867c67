"""The control plane as a process: it listens at once, is alone on its database, and ends when told."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from service.conftest import INTERNAL_TOKEN, SECRETS, make_home

SECONDS = 60
ME = "/services/himalia/api/v1/me"


class Process:
    """`python -m himalia_services` over a home of the test, with an engine that is not there."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.address = f"http://127.0.0.1:{port + 82}"
        self.log = home / "control.log"
        self._env = {
            "PATH": os.environ["PATH"],
            "HIMALIA_HOME": str(home),
            "HIMALIA_PORT": str(port),
            "HIMALIA_GATEWAY": "127.0.0.1",
            "DOCKER_HOST": f"unix://{home}/no-docker.sock",
        }
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.begin()
        assert self.answer(until=lambda answer: answer.status_code != 503).status_code == 401

    def begin(self) -> None:
        with open(self.log, "ab") as log:
            self.running = subprocess.Popen([sys.executable, "-m", "himalia_services"], env=self._env, stderr=log)

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "himalia_services"],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def answer(self, path: str = ME, *, until: Callable[[httpx.Response], bool]) -> httpx.Response:
        """The first answer that is as wanted."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(self.address + path, trust_env=False)
                if until(answer):
                    return answer
            except httpx.TransportError:
                if self.running is None or self.running.poll() is not None:
                    break
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.running is not None
        self.running.send_signal(number)
        return self.running.wait(SECONDS)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """Not started yet."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = max(free.getsockname()[1] - 82, 1024)
    process = Process(make_home(tmp_path / "home"), port)
    yield process
    if process.running is not None and process.running.poll() is None:
        process.end(signal.SIGKILL)


def refused(process: Process) -> str:
    """Why it does not start: a sentence on stderr, status 1, no traceback."""
    done = process.run()
    assert done.returncode == 1
    assert done.stderr.startswith("The control plane does not start: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_answers_before_it_is_ready_and_ends_when_told(process: Process) -> None:
    process.begin()
    first = process.answer(until=lambda answer: True)
    assert first.json()["code"] in ("starting", "unauthorized")
    process.answer(until=lambda answer: answer.status_code == 401)
    assert process.end() == 0
    assert not (process.home / "run" / "internal.sock").exists()


def test_the_internal_api_is_on_a_socket_of_our_user_only(process: Process) -> None:
    process.start()
    path = process.home / "run" / "internal.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://internal") as hub:
        assert hub.get("/internal/versions/ver-none").status_code == 401
        assert (
            hub.get("/internal/versions/ver-none", headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"}).status_code
            == 404
        )
        assert hub.get(ME).status_code == 404


def test_a_second_one_on_the_same_database_is_refused(process: Process) -> None:
    process.start()
    assert process.running is not None
    assert f"another one (pid {process.running.pid})" in refused(process)
    process.answer(until=lambda answer: answer.status_code == 401)  # the first goes on


def test_after_a_kill_the_next_one_takes_its_place(process: Process) -> None:
    process.start()
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    process.start()
    assert process.end() == 0


def test_a_newer_schema_is_refused_with_a_sentence(process: Process, migrated: Path) -> None:
    database = process.home / "control" / "himalia.sqlite"
    shutil.copyfile(migrated, database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_future'")
    assert "9999_future" in refused(process)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda home: (home / "instance").unlink(), "instance"),
        (lambda home: (home / "secrets" / "seal").chmod(0o644), "chmod 600"),
        (lambda home: (home / "secrets" / "service-token").unlink(), "service-token"),
    ],
)
def test_an_incomplete_home_is_refused_with_a_sentence(
    process: Process, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(process.home)
    assert says in refused(process)


def test_a_port_in_use_is_refused_with_a_sentence(process: Process) -> None:
    host, port = process.address.removeprefix("http://").split(":")
    with socket.create_server((host, int(port))):
        assert f"cannot listen on {host}:{port}" in refused(process)


def test_the_log_has_no_secret(process: Process) -> None:
    process.start()
    httpx.get(
        f"{process.address}{ME}?token=s3cr3t-of-ada", headers={"Authorization": "Bearer s3cr3t-of-ada"}, trust_env=False
    )
    process.end()
    text = process.log.read_text()
    assert '"event": "ready"' in text
    for secret in (*SECRETS.values(), "s3cr3t-of-ada"):
        assert secret not in text
