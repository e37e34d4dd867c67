"""Takes a job's outputs out of the tar of its project folder: what is new or changed against the pack it began with."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model import pack
from himalia_services.store.files import CHUNK, Files, Staged

#: Made by running, and of no use to anybody who gets the outputs.
SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints"})


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file a job made or changed, kept in the store."""

    path: str
    digest: str
    size_bytes: int
    mode: int
    change: Literal["new", "changed"]


@dataclass(frozen=True)
class Collected:
    """What was kept, and how many files were not because there were too many or they were too large in all."""

    made: Sequence[Made] = ()
    left_out: int = 0


@dataclass(frozen=True)
class Limits:
    """What one job may leave behind: the store is everybody's, and its rows are written in one transaction."""

    files: int = 20_000
    total_bytes: int = 20_000_000_000


USUAL = Limits()


async def collect(
    files: Files,
    chunks: AsyncIterator[bytes],
    before: Mapping[str, str],
    input: Path | None,
    limits: Limits = USUAL,
) -> Collected:
    """Keep every regular file of the tar that `before` (path: digest) does not have like that.

    What is a link, a device or has a name that leads out of the folder is left behind: a program made this tar. `input` is the
    pack `before` tells of. EngineUnavailable when the tar ends too early.
    """
    feed = _Feed(chunks, asyncio.get_running_loop())
    try:
        return await asyncio.to_thread(_Collector(files, before, input, limits).collect, feed)
    except tarfile.TarError as error:
        raise EngineUnavailable(f"The outputs did not come whole: {error}") from None
    finally:
        feed.given_up = True
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


class _Feed(io.RawIOBase):
    """An async stream as a file, for a thread to read."""

    def __init__(self, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.given_up = False
        self._chunks, self._loop = chunks, loop
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest and not self._ended:
            if self.given_up:
                raise EngineError("Nobody waits for these outputs any more.")
            following = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            self._ended = following is None
            self._rest = memoryview(following or b"")
        data = self._rest[:size] if size >= 0 else self._rest
        self._rest = self._rest[len(data) :]
        return bytes(data)

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)


class _Collector:
    def __init__(self, files: Files, before: Mapping[str, str], input: Path | None, limits: Limits) -> None:
        self._files, self._before, self._input, self._limits = files, before, input, limits
        self._bytes = self._left_out = 0
        self._seen: dict[str, tuple[str, int]] = {}
        self._made: dict[str, Made] = {}

    def collect(self, feed: _Feed) -> Collected:
        with tarfile.open(fileobj=feed, mode="r|", bufsize=CHUNK) as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # a folder may hold a million files
                self._take(tar, entry)
        return Collected([self._made[path] for path in sorted(self._made)], self._left_out)

    def _take(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = _path(entry.name)
        if path is None:
            return
        if entry.isreg():
            with self._files.stage() as staged:
                _write(staged, tar, entry)
                self._seen[path] = staged.digest, staged.size
                if self._add(path, entry.mode):
                    self._files.keep(staged)
        elif entry.islnk() and (target := _path(entry.linkname)) in self._seen:
            # another name of a file that came before it
            self._seen[path] = self._seen[target or ""]
            if self._add(path, entry.mode) and not self._files.has(self._seen[path][0]):
                self._from_input(path)

    def _add(self, path: str, mode: int) -> bool:
        digest, size = self._seen[path]
        if digest == self._before.get(path) or not SKIPPED.isdisjoint(path.split("/")):
            return False
        if len(self._made) >= self._limits.files or self._bytes + size > self._limits.total_bytes:
            self._left_out += 1
            return False
        self._bytes += size
        change = "changed" if path in self._before else "new"
        self._made[path] = Made(path=path, digest=digest, size_bytes=size, mode=mode & 0o777, change=change)
        return True

    def _from_input(self, path: str) -> None:
        """A new name of an unchanged file: its bytes went by and were not kept, but the pack has them."""
        digest, _ = self._seen[path]
        known = next((name for name, of in self._before.items() if of == digest), None)
        if self._input is None or known is None:
            del self._made[path]
            return
        with self._files.stage() as staged, self._input.open("rb") as file:
            for data in pack.content(file, known):
                staged.write(data)
            self._files.keep(staged)


def _write(staged: Staged, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    content = tar.extractfile(entry)
    assert content is not None
    left = entry.size
    while left:
        data = content.read(min(CHUNK, left))
        if not data:
            raise tarfile.ReadError(f"{entry.name} ends too early")
        staged.write(data)
        left -= len(data)


def _path(name: str) -> str | None:
    """The path in the project folder, whose name comes first; None for the folder itself and for what leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")][1:]
    if not parts or ".." in parts or name.startswith("/"):
        return None
    # a name that is no text cannot be stored as one
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
