"""Processes that outlive the one that started them: found again by pid and start time, ended by process group."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOG_LIMIT = 20 * 2**20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A process that is surely the one we started: pids come round again, start times do not."""

    pid: int
    started: int  # in clock ticks since boot, as the kernel counts

    @property
    def uptime(self) -> float:
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / TICKS)

    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def end(self, grace: float) -> None:
        """TERM to its group, KILL after `grace`; returns when it is gone."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.alive():
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                deadline = time.monotonic() + 5
            time.sleep(0.05)

    def _signal(self, number: int) -> None:
        if not self.alive():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _started(pid: int) -> int | None:
    """When the process with this pid began; None when there is none, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def find(pidfile: Path) -> Running | None:
    """The process a pid file names, if it still is that process."""
    try:
        known = json.loads(pidfile.read_text())
        found = Running(int(known["pid"]), int(known["started"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if found.alive() else None


def write(pidfile: Path, pid: int) -> Running:
    """Write down a process just started. It is our child and unreaped, so its pid is still its own."""
    running = Running(pid, _started(pid) or 0)
    new = pidfile.with_suffix(".new")
    new.write_text(json.dumps({"pid": running.pid, "started": running.started}))
    new.replace(pidfile)
    return running


def launch(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, pidfile: Path
) -> tuple[subprocess.Popen[bytes], Running]:
    """Start a process in a session of its own, its output appended to `log`."""
    rotate(log)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        child = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            close_fds=True,
        )
    return child, write(pidfile, child.pid)


def rotate(log: Path) -> None:
    """Keep one former log once the present one is large."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(log.suffix + ".1"))
