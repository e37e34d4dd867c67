"""A gzip file made of independent deflate pieces, written by threads: fast to write, and readable from any piece on."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from himalia_services.errors import EngineError

try:
    from isal import isal_zlib as _zlib
except ImportError:  # in the engine's own container there is the standard library only
    _zlib = zlib  # type: ignore[assignment]

PIECE = 1 << 20
_LEVEL = 1
_BUFFERS = 12

# deflate, no name, no time, no system: the same bytes for the same pieces
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"


@dataclass(frozen=True)
class Sealed:
    """A finished file: the digests of what it holds and of itself, with their sizes."""

    diff_id: str
    digest: str
    size: int
    uncompressed: int


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int  # uncompressed
    length: int
    offset: int  # in the file
    size: int


@dataclass(slots=True)
class _Job:
    raw: memoryview
    buffer: bytearray | None  # goes back to the free ones
    hashed: Future[None]
    compressed: Future[bytes]


class Store:
    """Appends to `descriptor`, addressed by uncompressed offset. One thread writes; hashing, compressing and the file have others.

    `told` hears of the file's size as it grows. A failure in a thread (no space left) comes out of the next call.
    """

    def __init__(self, descriptor: int, told: Callable[[int], None] = lambda size: None) -> None:
        self._descriptor = descriptor
        self._told = told
        self._tar = hashlib.sha256()
        self._file = hashlib.sha256()
        self._crc = 0
        self._size = 0
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []
        self._start = 0  # of the buffer, uncompressed
        self._at = 0
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._made = 0
        self._buffer = self._take()
        self._view = memoryview(self._buffer)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_BUFFERS)
        self._failure: BaseException | None = None
        self._hasher = ThreadPoolExecutor(1, "hash")
        self._compressors = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "deflate")
        self._writer = threading.Thread(target=self._write_pieces, name="pieces", daemon=True)
        self._append(_GZIP_HEAD)
        self._writer.start()

    def tell(self) -> int:
        return self._start + self._at

    def write(self, data: bytes | memoryview) -> None:
        end = self._at + len(data)
        if end <= PIECE:
            self._view[self._at : end] = data
            self._at = end
            if end == PIECE:
                self.cut()
            return
        rest = memoryview(data)
        while rest:
            part = rest[: PIECE - self._at]
            rest = rest[len(part) :]
            self.write(part)

    def fill(self, descriptor: int, size: int, offset: int | None = None) -> int:
        """`size` bytes from a file, zeros where it has fewer; returns how many it had."""
        got = 0
        while got < size:
            room = self._view[self._at : self._at + size - got]
            count = os.readv(descriptor, [room]) if offset is None else os.preadv(descriptor, [room], offset + got)
            if count == 0:
                self.zeros(size - got)
                break
            got += count
            self._at += count
            if self._at == PIECE:
                self.cut()
        return got

    def zeros(self, count: int) -> None:
        while count:
            part = min(count, PIECE)
            self.write(bytes(part))
            count -= part

    def cut(self) -> None:
        """End the piece here."""
        if self._at:
            self._submit(self._view[: self._at], self._buffer, None)
            self._buffer = self._take()
            self._view = memoryview(self._buffer)

    def adopt(self, raw: bytes | memoryview, compressed: bytes) -> None:
        """A whole piece of another store, already compressed."""
        self.cut()
        self._at = len(raw)
        self._submit(memoryview(raw), None, compressed)

    def settle(self) -> None:
        """Everything written so far is in the file."""
        self.cut()
        self._join()
        self._writer = threading.Thread(target=self._write_pieces, name="pieces", daemon=True)
        self._writer.start()

    def seal(self) -> Sealed:
        """End the file."""
        self.cut()
        self.close()
        length = self._start & 0xFFFFFFFF
        self._append(_LAST_BLOCK + self._crc.to_bytes(4, "little") + length.to_bytes(4, "little"))
        self._told(self._size)
        return Sealed(
            f"sha256:{self._tar.hexdigest()}", f"sha256:{self._file.hexdigest()}", self._size, uncompressed=self._start
        )

    def close(self) -> None:
        self._join()
        self._hasher.shutdown()
        self._compressors.shutdown()

    def read(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[bytes | memoryview, bytes | None]]:
        """The bytes of `spans` (start, end) of what is settled; with a whole piece its compressed form."""
        inflated = lru_cache(maxsize=4)(self._inflate)  # spans of old and new content take turns
        for start, end in spans:
            while start < end:
                index = bisect_right(self._starts, start) - 1
                piece = self._pieces[index]
                raw, compressed = inflated(index)
                if start == piece.start and end >= start + piece.length:
                    yield raw, compressed
                else:
                    yield memoryview(raw)[start - piece.start : end - piece.start], None
                start = min(end, piece.start + piece.length)

    def _inflate(self, index: int) -> tuple[bytes, bytes]:
        piece = self._pieces[index]
        compressed = os.pread(self._descriptor, piece.size, piece.offset)
        raw = _zlib.decompressobj(-15).decompress(compressed)
        if len(raw) != piece.length:
            raise EngineError("The layer could not be read back from this machine's disk. Try again.")
        return raw, compressed

    def _take(self) -> bytearray:
        if self._made < _BUFFERS:
            self._made += 1
            return bytearray(PIECE)
        return self._free.get()

    def _submit(self, raw: memoryview, buffer: bytearray | None, compressed: bytes | None) -> None:
        if self._failure is not None:
            raise self._failure
        self._room.acquire()
        hashed = self._hasher.submit(self._hash, raw)
        if compressed is None:
            done = self._compressors.submit(_deflate, raw)
        else:
            done = Future[bytes]()
            done.set_result(compressed)
        self._jobs.put(_Job(raw, buffer, hashed, done))
        self._start += self._at
        self._at = 0

    def _hash(self, raw: memoryview) -> None:
        self._tar.update(raw)
        self._crc = _zlib.crc32(raw, self._crc)

    def _write_pieces(self) -> None:
        start = self._pieces[-1].start + self._pieces[-1].length if self._pieces else 0
        while (job := self._jobs.get()) is not None:
            try:
                if self._failure is None:
                    compressed = job.compressed.result()
                    self._pieces.append(_Piece(start, len(job.raw), self._size, len(compressed)))
                    self._starts.append(start)
                    start += len(job.raw)
                    self._append(compressed)
                    job.hashed.result()
                    self._told(self._size)
            except BaseException as error:
                self._failure = error
            if job.buffer is not None:
                self._free.put(job.buffer)
            self._room.release()

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._file.update(data)
        self._size += len(data)

    def _join(self) -> None:
        self._jobs.put(None)
        self._writer.join()
        if self._failure is not None:
            raise self._failure


def _deflate(raw: memoryview) -> bytes:
    stream = _zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    return stream.compress(raw) + stream.flush(zlib.Z_FULL_FLUSH)


class Inflater(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def inflater() -> Inflater:
    """Reads a whole gzip file, part by part."""
    return _zlib.decompressobj(31)
