"""One process and its end: starts a command as a user in a session of its own, passes signals on, reaps orphans."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOT_FOUND = 127
NOT_EXECUTABLE = 126


@dataclass(frozen=True, kw_only=True)
class User:
    """Who a command runs as."""

    name: str
    uid: int
    gid: int
    home: Path


JOVYAN = User(name="jovyan", uid=1000, gid=1000, home=Path("/home/jovyan"))


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended; `error` is a sentence when it never began."""

    exit_code: int
    signal: int | None = None
    error: str | None = None


def run(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, user: User | None = JOVYAN, output: int | None = None
) -> Ending:
    """Run to the end. `output` is the descriptor that stdout and stderr share; without it they are inherited.

    Signals that reach the runner reach the command's process group. As PID 1 every orphan is reaped on the way.
    """
    child = 0

    def forward(number: int, _: FrameType | None) -> None:
        if child:
            _signal_group(child, number)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    former = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        started = start(argv, env=env, cwd=cwd, user=user, output=output, mask=before)
        if isinstance(started, Ending):
            return started
        child = started
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return wait(child)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    user: User | None = JOVYAN,
    output: int | None = None,
    mask: set[signal.Signals] | set[int] | None = None,
) -> int | Ending:
    """Start a command in a session of its own; its process id, or how it failed to begin."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _become(argv, env, cwd, user, output, mask, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        complaint = pipe.read().decode(errors="replace")
    if not complaint:
        return pid
    os.waitpid(pid, 0)
    number, sentence = complaint.split(" ", 1)
    return Ending(exit_code=int(number), error=sentence)


def wait(pid: int) -> Ending:
    """Wait for a process to end; as PID 1 reap every orphan that ends before it."""
    while True:
        ended, status = os.waitpid(-1 if os.getpid() == 1 else pid, 0)
        if ended == pid:
            break
    if os.WIFSIGNALED(status):
        return Ending(exit_code=128 + os.WTERMSIG(status), signal=os.WTERMSIG(status))
    return Ending(exit_code=os.WEXITSTATUS(status))


def stop(pid: int) -> None:
    """Kill a process and its group, now."""
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended; waitpid will say so
        os.killpg(pid, number)


def _become(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    user: User | None,
    output: int | None,
    mask: set[signal.Signals] | set[int] | None,
    writer: int,
) -> None:
    """The child's side: never returns. What goes wrong before exec travels through the pipe, which exec closes."""
    code, sentence = NOT_EXECUTABLE, ""
    try:
        os.setsid()
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask or set())
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        if user is not None and os.geteuid() == 0:
            os.setgroups([user.gid])
            os.setgid(user.gid)
            os.setuid(user.uid)
        code, sentence = NOT_FOUND, f"The working directory {cwd} is not there."
        os.chdir(cwd)
        code, sentence = NOT_FOUND, f"{argv[0]} is not there or not on PATH."
        os.execvpe(argv[0], list(argv), dict(env))
    except FileNotFoundError:
        pass
    except OSError as error:
        code = NOT_EXECUTABLE
        reason = "it is not a program" if error.errno == errno.ENOEXEC else os.strerror(error.errno or 0).lower()
        sentence = f"{argv[0]} could not be started: {reason}."
    except BaseException as error:
        sentence = f"{argv[0]} could not be started: {error!r}."
    os.write(writer, f"{code} {sentence}".encode())
    sys.stdout.flush()
    os._exit(code)
