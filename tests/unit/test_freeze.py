"""Freezing a control group: of files that look like one, and with a child that thaws when the saver is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from himalia_services.errors import EngineError
from himalia_services.snapshot import freeze
from himalia_services.snapshot.freeze import Freezer, Switch


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A v1 freezer whose state is what was written last."""
    path = tmp_path / "group"
    path.mkdir()
    (path / "freezer.state").write_text("THAWED")
    return path


def state(group: Path) -> str:
    return (group / "freezer.state").read_text()


def wait_for(group: Path, wanted: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while state(group) != wanted:
        assert time.monotonic() < deadline, f"still {state(group)}"
        time.sleep(0.01)


def test_a_block_sees_it_frozen_and_leaves_it_thawed(group: Path) -> None:
    switch = Switch(Freezer(group, 1))
    with switch.frozen():
        assert state(group) == "FROZEN"
    assert state(group) == "THAWED"
    switch.close()
    assert state(group) == "THAWED"


def test_a_block_that_fails_leaves_it_thawed(group: Path) -> None:
    switch = Switch(Freezer(group, 1))
    with pytest.raises(ZeroDivisionError), switch.frozen():
        raise ZeroDivisionError
    assert state(group) == "THAWED"
    switch.close()


def test_a_block_that_takes_too_long_has_lost_its_moment(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "LIMIT_S", 0.2)
    switch = Switch(Freezer(group, 1))
    with pytest.raises(EngineError, match="changed too much"), switch.frozen():
        wait_for(group, "THAWED")  # the child did it
    switch.close()


def test_a_group_that_cannot_be_frozen_is_thawed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "LIMIT_S", 0.1)
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    switch = Switch(Freezer(tmp_path, 2))
    with pytest.raises(EngineError, match="could not be stopped for the moment"), switch.frozen():
        pytest.fail("it does not stand still")
    switch.close()
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_a_group_that_is_gone_has_nothing_that_moves(tmp_path: Path) -> None:
    switch = Switch(Freezer(tmp_path / "gone", 2))
    with switch.frozen():
        pass
    switch.close()


SAVER = """
import sys, time
from pathlib import Path
from himalia_services.snapshot.freeze import Freezer, Switch
with Switch(Freezer(Path(sys.argv[1]), 1)).frozen():
    print("frozen", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_saver_that_is_killed_while_it_is_frozen_leaves_it_thawed(group: Path, number: signal.Signals) -> None:
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(group)], stdout=subprocess.PIPE, start_new_session=True)
    with saver:
        assert saver.stdout is not None
        saver.stdout.readline()
        assert state(group) == "FROZEN"
        os.killpg(saver.pid, number)  # the whole group: the child is in one of its own
    wait_for(group, "THAWED")


def test_a_saver_that_hangs_while_it_is_frozen_loses_it_at_the_limit(group: Path) -> None:
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(group)], stdout=subprocess.PIPE)
    with saver:
        assert saver.stdout is not None
        saver.stdout.readline()
        saver.send_signal(signal.SIGSTOP)
        wait_for(group, "THAWED")
        saver.kill()


def mount_table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_freezer_is_found_where_its_hierarchy_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "_groups", lambda text: {1: "/docker/abc", 2: "/docker/abc"})
    for name in ("v1/docker/abc", "part/abc", "v2/docker/abc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "v1/docker/abc/freezer.state").touch()
    (tmp_path / "part/abc/freezer.state").touch()
    (tmp_path / "v2/docker/abc/cgroup.freeze").touch()
    v1 = f"1 2 0:1 / {tmp_path}/v1 rw,nosuid - cgroup cgroup rw,freezer"
    part = f"1 2 0:1 /docker {tmp_path}/part rw - cgroup cgroup rw,freezer"
    other = f"1 2 0:1 /elsewhere {tmp_path}/v1 rw - cgroup cgroup rw,freezer"
    closed = f"1 2 0:1 / {tmp_path}/v1 ro,nosuid - cgroup cgroup rw,freezer"
    v2 = f"1 2 0:2 / {tmp_path}/v2 rw - cgroup2 cgroup2 rw"
    pid = os.getpid()
    assert freeze.freezer(pid, mount_table(tmp_path, v2, v1)) == Freezer(tmp_path / "v1/docker/abc", 1)
    assert freeze.freezer(pid, mount_table(tmp_path, part)) == Freezer(tmp_path / "part/abc", 1)
    assert freeze.freezer(pid, mount_table(tmp_path, closed, other, v2)) == Freezer(tmp_path / "v2/docker/abc", 2)
    with pytest.raises(EngineError, match="cannot be found"):
        freeze.freezer(pid, mount_table(tmp_path, closed))


def test_the_groups_of_a_process_are_read_for_both_versions() -> None:
    text = "9:name=systemd:/docker/abc\n6:freezer:/docker/abc\n0::/system.slice/docker-abc.scope\n"
    assert freeze._groups(text) == {1: "/docker/abc", 2: "/system.slice/docker-abc.scope"}
