"""Stops the processes of a container for a moment, and makes sure that they go on, whatever happens to us."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from himalia_services.errors import EngineError

#: Longest freeze. Who has not finished by then has lost it.
LIMIT_S = 2.0

#: Past the limit the child thaws again and again until it is disarmed: the parent may just have been freezing.
_AGAIN_S = 0.2

_GONE = (errno.ENOENT, errno.ENODEV)

_READY, _ARM, _DISARM = b"R", b"F", b"T"


@dataclass(frozen=True)
class Freezer:
    """The freezer of one control group; `folder` is its folder, the version decides on the files."""

    folder: Path
    version: int

    def freeze(self, deadline: float) -> None:
        """Returns when every process stands still; raises when that takes too long, and has thawed by then."""
        try:
            while not self._freeze_once():
                if time.monotonic() > deadline:
                    raise EngineError(
                        "The workspace could not be stopped for the moment a save needs: one of its processes waits for a "
                        "disk or a network drive. Try again."
                    )
                time.sleep(0.0005)
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        with contextlib.suppress(OSError):
            if self.version == 1:
                (self.folder / "freezer.state").write_text("THAWED")
            else:
                (self.folder / "cgroup.freeze").write_text("0")

    def is_frozen(self) -> bool:
        """A group that is gone has nothing that could move."""
        try:
            if self.version == 1:
                return (self.folder / "freezer.state").read_text().strip() == "FROZEN"
            return "frozen 1" in (self.folder / "cgroup.events").read_text().splitlines()
        except OSError as error:
            return error.errno in _GONE

    def _freeze_once(self) -> bool:
        try:
            if self.version == 1:
                # a fork that runs while the group freezes leaves it at FREEZING until it is told again
                (self.folder / "freezer.state").write_text("FROZEN")
            else:
                (self.folder / "cgroup.freeze").write_text("1")
        except OSError as error:
            if error.errno not in _GONE:
                raise
        return self.is_frozen()


def freezer(pid: int, mountinfo: Path = Path("/proc/self/mountinfo")) -> Freezer:
    """The freezer that holds the process: v1 where that hierarchy is mounted, else v2."""
    groups = _groups(Path(f"/proc/{pid}/cgroup").read_text())
    for version, root, folder in _hierarchies(mountinfo.read_text()):
        group = groups.get(version, "")
        if root != "/" and not f"{group}/".startswith(f"{root}/"):
            continue  # a part of the hierarchy that does not hold the process
        inside = group.removeprefix(root)
        path = folder / inside.lstrip("/")
        if inside.strip("/") and (path / ("freezer.state" if version == 1 else "cgroup.freeze")).exists():
            return Freezer(path, version)
    raise EngineError(
        "The control group of the workspace's container cannot be found, so it cannot be stopped for the moment a save "
        "needs. Mount /sys/fs/cgroup, or stop the workspace and save it then."
    )


def _groups(text: str) -> dict[int, str]:
    groups: dict[int, str] = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            groups[2] = path
        elif "freezer" in controllers.split(","):
            groups[1] = path
    return groups


def _hierarchies(mountinfo: str) -> list[tuple[int, str, Path]]:
    found: list[tuple[int, str, Path]] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if "ro" in fields[5].split(","):
            continue
        if kind[:1] == ["cgroup"] and "freezer" in kind[-1].split(","):
            found.append((1, fields[3], Path(fields[4])))
        elif kind[:1] == ["cgroup2"]:
            found.append((2, fields[3], Path(fields[4])))
    return sorted(found, key=lambda hierarchy: hierarchy[0])


class Switch:
    """A dead man's switch: a child that thaws when we die or take longer than `LIMIT_S`. Make it before any thread."""

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer
        self._line, other = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._line.close()
                _watch(freezer, other)
            finally:
                os._exit(0)
        other.close()
        if self._line.recv(1) != _READY:
            raise EngineError("The child that ends a freeze could not be started. Try again.")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Everything in this block sees the container standing still; a block that outlives the limit fails."""
        deadline = time.monotonic() + LIMIT_S
        self._line.send(_ARM)
        try:
            self._freezer.freeze(deadline)
            yield
            if not self._freezer.is_frozen() or time.monotonic() > deadline:
                raise EngineError(
                    f"The workspace changed too much to be read within {LIMIT_S:.0f} s of standing still. Wait until its "
                    "programs have written their files, or stop it, and save again."
                )
        finally:
            self._freezer.thaw()
            self._line.send(_DISARM)

    def close(self) -> None:
        self._line.close()
        os.waitpid(self._pid, 0)


def _watch(freezer: Freezer, line: socket.socket) -> None:
    """The child. It keeps nothing open that its parent's readers wait on, and outlives signals to the parent's group."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    line.send(_READY)
    deadline: float | None = None
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([line], [], [], wait)[0]:
            freezer.thaw()
            deadline = time.monotonic() + _AGAIN_S
            continue
        try:
            command = line.recv(1)
        except OSError:
            command = b""
        if command == b"":
            break
        deadline = time.monotonic() + LIMIT_S if command == _ARM else None
    if deadline is not None:
        freezer.thaw()
