"""A Docker daemon that was killed must not keep the next one from starting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from himalia_services.local.engine import _forget_former


@pytest.mark.parametrize("text", [str(os.getpid()), "999999999"])
def test_a_pid_file_of_another_or_no_program_is_removed(tmp_path: Path, text: str):
    pidfile = tmp_path / "docker.pid"
    pidfile.write_text(text)
    _forget_former(pidfile, "dockerd")
    assert not pidfile.exists()


def test_the_pid_file_of_a_running_daemon_stays(tmp_path: Path):
    pidfile = tmp_path / "docker.pid"
    pidfile.write_text(str(os.getpid()))
    _forget_former(pidfile, Path(f"/proc/{os.getpid()}/comm").read_text().strip())
    assert pidfile.exists()


def test_no_pid_file_is_nothing(tmp_path: Path):
    _forget_former(tmp_path / "docker.pid", "dockerd")
