"""The changes of a container as one layer in a file: a process of its own, told what to do on stdin, telling lines of JSON.

It ends at once when its stdin does. Lines: `{"ready"}` (the spool's files are open, and unlinked), `{"spooled": bytes}`
(of the current file), `{"again"}` (start over: the layer is in the other file), at last `{"done": {…}}` or `{"error": sentence}`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import gc
import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from himalia_services.errors import HimaliaError
from himalia_services.snapshot import changes, layer
from himalia_services.snapshot.changes import Exclusions
from himalia_services.snapshot.freeze import Switch, freezer
from himalia_services.snapshot.pieces import Sealed, Store
from himalia_services.snapshot.sweep import FrozenSink, LiveSink, Record, TooMuch, sweep

#: The files of a spool: the layer as it is read, the layer put together anew, content read while the container stood still.
LIVE, FINAL, SPILL = "live", "final", "spill"

#: What may be read while the container stands still, as long as one more pass over the live tree can make it less.
_FROZEN_BYTES = 64 << 20
_PASSES = 3

_NOTES = 200


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to capture; see `changes.find` for `pid`, `upper`, `mounts`, `host`."""

    container: str
    spool: str
    pid: int = 0
    upper: str = ""
    mounts: tuple[str, ...] = ()
    excluded: tuple[str, ...] = changes.EXCLUDED
    paused: bool = False
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The layer: `file` of the spool holds it, gzipped."""

    file: str
    diff_id: str
    digest: str
    size: int
    uncompressed: int
    entries: int
    left_out: tuple[str, ...] = ()
    frozen_s: float = 0.0
    passes: int = 1


Say = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Spool:
    """Descriptors of a spool's files."""

    live: int
    final: int
    spill: int


class Standstill(Protocol):
    """What stops the container for a moment: `Switch`."""

    def frozen(self) -> AbstractContextManager[None]: ...


@dataclass
class _Reading:
    """The passes over one tree."""

    root: int
    exclusions: Exclusions
    store: Store
    spill: int
    records: dict[bytes, Record] = field(default_factory=dict)
    frozen_s: float = 0.0
    passes: int = 0

    def pass_over(self, *, still: bool) -> None:
        since = time.time_ns()
        # a page that is mapped and dirty takes writes without a trace in ctime; written back, the next write leaves one
        _syncfs(self.root)
        self.records = sweep(self.root, self.exclusions, self.records, LiveSink(self.store, still=still), since)
        self.passes += 1

    def freeze(self, switch: Standstill) -> None:
        """The tree as it is at one moment: what changed since the last pass is read while nothing moves."""
        while True:
            sink = FrozenSink(self.spill, _FROZEN_BYTES if self.passes < _PASSES else None)
            began = time.monotonic()
            try:
                with switch.frozen():
                    records = sweep(self.root, self.exclusions, self.records, sink, 0)
            except TooMuch:
                self.pass_over(still=False)
                continue
            finally:
                self.frozen_s = max(self.frozen_s, time.monotonic() - began)
            sink.settle(self.store)
            self.records = records
            return

    def plan(self) -> list[tuple[int, int]]:
        """Where the layer's bytes are in the store, neighbours as one."""
        plan: list[tuple[int, int]] = []
        for record in self.records.values():
            start, end = record.span.start, record.span.end
            if plan and plan[-1][1] == start:
                plan[-1] = (plan[-1][0], end)
            elif start < end:
                plan.append((start, end))
        return plan


def capture(request: Request, say: Say) -> Captured:
    """Read the changes of the container into the spool's files."""
    with ExitStack() as stack:
        spool = Spool(*(_open(stack, os.path.join(request.spool, name)) for name in (LIVE, FINAL, SPILL)))
        switch = None
        if request.pid and not request.paused and changes.belongs(request.pid, request.container):
            switch = Switch(freezer(request.pid))
            stack.callback(switch.close)
        say({"ready": True})
        found = changes.find(
            request.pid, request.container, upper=request.upper, mounts=request.mounts, host=request.host
        )
        root = os.open(found.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        return read(root, changes.exclusions(request.excluded, found.mounts), spool, say, switch)


def read(root: int, exclusions: Exclusions, spool: Spool, say: Say, switch: Standstill | None) -> Captured:
    """The tree below `root` as a layer in the spool; without a switch nothing moves in it."""
    store = Store(spool.live, lambda size: say({"spooled": size}))
    try:
        reading = _Reading(root, exclusions, store, spool.spill)
        reading.pass_over(still=switch is None)
        if switch is not None:
            reading.freeze(switch)
        return _finish(reading, spool, say)
    finally:
        store.close()


def _finish(reading: _Reading, spool: Spool, say: Say) -> Captured:
    store, plan = reading.store, reading.plan()
    whole = [(0, store.tell())] if store.tell() else []
    if plan == whole:
        store.write(layer.END)
        return _captured(reading, LIVE, store.seal())
    store.settle()
    say({"again": True})
    final = Store(spool.final, lambda size: say({"spooled": size}))
    try:
        for raw, compressed in store.read(plan):
            if compressed is None:
                final.write(raw)
            else:
                final.adopt(raw, compressed)
        final.write(layer.END)
        return _captured(reading, FINAL, final.seal())
    finally:
        final.close()


def _captured(reading: _Reading, file: str, sealed: Sealed) -> Captured:
    notes = [note for record in reading.records.values() for note in record.notes]
    if len(notes) > _NOTES:
        notes = [*notes[:_NOTES], f"and {len(notes) - _NOTES} more"]
    return Captured(
        file=file,
        diff_id=sealed.diff_id,
        digest=sealed.digest,
        size=sealed.size,
        uncompressed=sealed.uncompressed,
        entries=sum(record.span.start < record.span.end for record in reading.records.values()),
        left_out=tuple(notes),
        frozen_s=reading.frozen_s,
        passes=reading.passes,
    )


def _open(stack: ExitStack, path: str) -> int:
    # the files are there already: they belong to who asked, also when we run as root in another container
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    os.unlink(path)  # who asked has it open; what is killed from now on leaves nothing
    return descriptor


def _syncfs(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> int:
    """`python -m himalia_services.snapshot`."""
    gc.disable()  # many small tuples, no cycles
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wishes = _lines(0)
    request = _request(json.loads(next(wishes)))
    lock = threading.Lock()

    def say(line: Mapping[str, object]) -> None:
        with lock:
            os.write(1, json.dumps(line).encode() + b"\n")

    return _run(request, say, wishes)


def _run(request: Request, say: Say, wishes: Iterator[bytes]) -> int:
    def told(line: Mapping[str, object]) -> None:
        say(line)
        if "ready" in line:  # not before: the dead man's switch is forked by then, and a fork wants no threads
            threading.Thread(target=_end_with, args=(wishes,), daemon=True).start()

    try:
        say({"done": dataclasses.asdict(capture(request, told))})
        return 0
    except HimaliaError as error:
        say({"error": error.detail})
    except OSError as error:
        say({"error": _sentence(error)})
    return 1


def _end_with(wishes: Iterator[bytes]) -> None:
    """Nobody waits for the layer any more: leave; the switch's child thaws."""
    for _ in wishes:
        pass
    os._exit(3)


def _lines(descriptor: int) -> Iterator[bytes]:
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _request(wish: Mapping[str, object]) -> Request:
    tuples = {key: tuple(value) for key, value in wish.items() if isinstance(value, list)}
    return Request(**{**wish, **tuples})  # type: ignore[arg-type]


def _sentence(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "This machine's disk is full: the layer of a save is written there first. Free some space and save again."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Reading the container's changes takes root: {error}."
    return f"The container's changes could not be read: {error}."
