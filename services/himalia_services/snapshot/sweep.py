"""One pass over a container's changes: reads what is new since the pass before, carries over what is not."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from himalia_services.snapshot import layer
from himalia_services.snapshot.changes import Exclusions
from himalia_services.snapshot.layer import Node
from himalia_services.snapshot.pieces import Store

#: The kernel's clock for changes of files is coarse (up to 10 ms); what is this much older than a pass is older than it.
CLOCK_NS = 20_000_000


@dataclass(slots=True)
class Span:
    """Where the bytes of an entry are in the store; empty for what a layer cannot hold."""

    start: int = 0
    end: int = 0


class Record(NamedTuple):
    """What was read for a name. An inode of 0 says: it was changing, read it again."""

    inode: int
    changed_ns: int
    link: bytes | None
    span: Span
    notes: tuple[str, ...]


class Sink(Protocol):
    #: While it is so, nobody writes to the tree: what is read once is right.
    still: bool

    def put(self, head: bytes) -> Span: ...

    def pour(self, head: bytes, descriptor: int, size: int) -> tuple[Span, int]:
        """Header and content; returns how many bytes there were (zeros stand for missing ones)."""
        ...


class LiveSink:
    """Straight into the store."""

    def __init__(self, store: Store, *, still: bool) -> None:
        self._store = store
        self.still = still

    def put(self, head: bytes) -> Span:
        start = self._store.tell()
        self._store.write(head)
        return Span(start, self._store.tell())

    def pour(self, head: bytes, descriptor: int, size: int) -> tuple[Span, int]:
        store = self._store
        start = store.tell()
        store.write(head)
        got = store.fill(descriptor, size)
        store.write(_ZEROS[: layer.padding(size)])
        return Span(start, store.tell()), got


class TooMuch(Exception):
    """More has changed than may be read while the container stands still."""


class FrozenSink:
    """Keeps headers in memory and content in a file, as fast as that goes; `settle` makes entries of them afterwards."""

    still = True

    def __init__(self, spill: int, limit: int | None) -> None:
        self._spill = spill
        self._limit = limit
        self._bytes = 0
        self._kept: list[tuple[Span, bytes, int, int, int]] = []  # span, header, offset, there, size
        os.lseek(spill, 0, os.SEEK_SET)

    def put(self, head: bytes) -> Span:
        span = Span()
        self._kept.append((span, head, self._bytes, 0, 0))
        return span

    def pour(self, head: bytes, descriptor: int, size: int) -> tuple[Span, int]:
        if self._limit is not None and self._bytes + size > self._limit:
            raise TooMuch
        got = 0
        while got < size and (count := os.sendfile(self._spill, descriptor, None, size - got)):
            got += count
        span = Span()
        self._kept.append((span, head, self._bytes, got, size))
        self._bytes += got
        return span, got

    def settle(self, store: Store) -> None:
        for span, head, offset, got, size in self._kept:
            span.start = store.tell()
            store.write(head)
            store.fill(self._spill, got, offset)
            store.zeros(size - got + layer.padding(size))
            span.end = store.tell()


def sweep(
    root: int, exclusions: Exclusions, known: Mapping[bytes, Record], sink: Sink, since_ns: int
) -> dict[bytes, Record]:
    """Every entry of the tree in the layer's order. `since_ns` is when the pass began: what changed later is read once more."""
    settled = since_ns - CLOCK_NS
    seen: dict[bytes, Record] = {}
    firsts: dict[tuple[int, int], bytes] = {}
    for node in layer.walk(root, exclusions):
        path, _, status, _, own = node
        link = None
        if status.st_nlink > 1 and own < 0 and not layer.is_whiteout(status):
            first = firsts.setdefault((status.st_dev, status.st_ino), path)
            link = None if first is path else first
        record = known.get(path)
        if (
            record is None
            or record.inode != status.st_ino
            or record.changed_ns != status.st_ctime_ns
            or record.link != link
        ):
            try:
                record = _read(node, link, sink, settled)
            except OSError as error:
                if not layer.vanished(error):
                    raise
                record = None
        if link is None and status.st_nlink > 1 and (record is None or record.span is _NOTHING):
            firsts.pop((status.st_dev, status.st_ino), None)  # another name has to hold the data
        if record is not None:
            seen[path] = record
    return seen


_ZEROS = bytes(layer.BLOCK)
_NOTHING = Span()


def _read(node: Node, link: bytes | None, sink: Sink, settled: int) -> Record | None:
    """None when it is no longer what was listed."""
    mode = node.status.st_mode
    if layer.is_whiteout(node.status) and not node.name.startswith(".wh."):
        return _record(node.status, None, sink.put(layer.whiteout(node.path)), sink.still, settled)
    if reason := _refusal(node):
        note = f"{layer.shown(node.path)}: {reason}"
        return Record(node.status.st_ino, node.status.st_ctime_ns, link, _NOTHING, (note,))
    if stat.S_ISREG(mode):
        return _read_file(node, link, sink, settled)
    kept = layer.attributes(node, node.own)
    if stat.S_ISDIR(mode):
        head = layer.entry(node.path, node.status, layer.FOLDER, kept=kept)
    elif link is not None:
        head = layer.entry(node.path, node.status, layer.LINK, link, kept)
    elif stat.S_ISLNK(mode):
        target = os.fsencode(os.readlink(node.name, dir_fd=node.parent))
        head = layer.entry(node.path, node.status, layer.SYMLINK, target)
    else:
        head = layer.entry(node.path, node.status, layer.FIFO, kept=kept)
    return _record(node.status, link, sink.put(head), sink.still, settled, kept.left_out)


def _refusal(node: Node) -> str:
    if node.name.startswith(".wh."):
        return "its name means a deleted file in an image"
    mode = node.status.st_mode
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return ""


def _read_file(node: Node, link: bytes | None, sink: Sink, settled: int) -> Record | None:
    descriptor = os.open(node.name, layer.OPEN_FILE, dir_fd=node.parent)
    try:
        status = os.fstat(descriptor)
        if status.st_ino != node.status.st_ino or not stat.S_ISREG(status.st_mode):
            return None
        kept = layer.attributes(node, descriptor)
        if link is not None:
            head = layer.entry(node.path, status, layer.LINK, link, kept)
            return _record(status, link, sink.put(head), sink.still, settled, kept.left_out)
        head = layer.entry(node.path, status, layer.FILE, kept=kept)
        span, got = sink.pour(head, descriptor, status.st_size)
        after = os.fstat(descriptor)
        notes = kept.left_out
        if got < status.st_size:
            notes = (*notes, f"{layer.shown(node.path)}: it shrank while it was read; zeros stand for the missing end")
        elif after.st_size > status.st_size:
            notes = (*notes, f"{layer.shown(node.path)}: it grew while it was read; its new end is missing")
        same = after.st_ctime_ns == status.st_ctime_ns
        return _record(status, None, span, sink.still, settled if same else 0, notes)
    finally:
        os.close(descriptor)


def _record(
    status: os.stat_result, link: bytes | None, span: Span, still: bool, settled: int, notes: tuple[str, ...] = ()
) -> Record:
    trusted = still or status.st_ctime_ns < settled
    return Record(status.st_ino if trusted else 0, status.st_ctime_ns, link, span, notes)
