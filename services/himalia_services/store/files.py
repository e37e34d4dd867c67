"""Inputs, outputs and logs: files kept by the sha256 of their bytes, and one log per job, attempt and worker.

The design names fsspec for this; one machine needs a folder only, so this is a folder behind an interface narrow enough for another
store to take its place: put, open, delete, and logs by name. A file is there whole or not at all, whatever crashes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from himalia_services.errors import NotFound, TooLarge

CHUNK = 256 << 10

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Staged:
    """A file being written. `keep` makes it one of the store's; left without, its bytes go."""

    def __init__(self, folder: Path) -> None:
        handle, name = tempfile.mkstemp(dir=folder)
        self.file: BinaryIO = os.fdopen(handle, "wb")
        self.path = Path(name)
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def sync(self) -> None:
        """What was written is on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def move(self, target: Path) -> None:
        """To its place: on disk first, then visible under the name, then the name on disk."""
        self.sync()
        self.file.close()
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path, target)
        _sync_folder(target.parent)

    def drop(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


class Files:
    """A folder of files named by their digest. All verbs are idempotent; absent is success on delete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs, self._logs, self._temporary = root / "sha256", root / "logs", root / "tmp"
        for folder in (self._blobs, self._logs, self._temporary):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def stage(self) -> Iterator[Staged]:
        """A file to write into; what is not kept when the block ends is gone."""
        staged = Staged(self._temporary)
        try:
            yield staged
        finally:
            staged.drop()

    def keep(self, staged: Staged) -> str:
        """Take a staged file in, under its digest, which is returned."""
        digest = staged.digest
        staged.move(self.path(digest))
        return digest

    async def put_stream(
        self, chunks: AsyncIterable[bytes], *, limit: int | None = None, sentence: str = ""
    ) -> tuple[str, int]:
        """Keep what `chunks` yields; its digest and size. Over `limit` bytes it is refused with `sentence`."""
        with self.stage() as staged:
            await fill(staged, chunks, limit=limit, sentence=sentence)
            return await asyncio.to_thread(self.keep, staged), staged.size

    def path(self, digest: str) -> Path:
        """Where the bytes of `digest` are or would be."""
        if not _DIGEST.fullmatch(digest):
            raise NotFound(f"“{digest[:80]}” is not a digest. It looks like sha256: and 64 hexadecimal digits.")
        value = digest.removeprefix("sha256:")
        return self._blobs / value[:2] / value

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def open(self, digest: str) -> BinaryIO:
        """The bytes, for reading; NotFound when they are not here."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound("The bytes of this file are no longer kept.") from None

    def delete(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Everything that is kept."""
        for path in self._blobs.glob("??/*"):
            yield f"sha256:{path.name}"

    def age(self, digest: str, now: float) -> float:
        """Seconds since the file came; 0 when it is not here."""
        try:
            return now - self.path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    async def put_log(
        self, job: str, attempt: int, worker: int, chunks: AsyncIterable[bytes], *, limit: int | None = None
    ) -> int:
        """Keep a whole log, replacing one that is there; its size. What is over `limit` is cut, and the log says so."""
        with self.stage() as staged:
            async for chunk in chunks:
                room = len(chunk) if limit is None else max(limit - staged.size, 0)
                await asyncio.to_thread(staged.write, chunk[:room])
                if len(chunk) > room:
                    staged.write(f"\n[himalia] The log was cut here, at {limit} bytes.\n".encode())
                    break
            await asyncio.to_thread(staged.move, self.log_path(job, attempt, worker))
            return staged.size

    def log_path(self, job: str, attempt: int, worker: int = 0) -> Path:
        if not _NAME.fullmatch(job):
            raise ValueError(f"not the id of a job: {job!r}")
        return self._logs / job / f"{attempt}.{worker}"

    async def read_log(self, job: str, attempt: int, worker: int = 0, *, offset: int = 0) -> AsyncIterator[bytes]:
        """The log from byte `offset`; nothing when there is none."""
        try:
            file = self.log_path(job, attempt, worker).open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            while data := await asyncio.to_thread(file.read, CHUNK):
                yield data

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        """The bytes in pieces."""
        with self.open(digest) as file:
            while data := await asyncio.to_thread(file.read, CHUNK):
                yield data

    def logged(self) -> Iterator[str]:
        """Jobs that have logs here."""
        for path in self._logs.iterdir():
            yield path.name

    def delete_logs(self, job: str) -> None:
        shutil.rmtree(self.log_path(job, 1).parent, ignore_errors=True)

    def tidy(self, now: float, older_than: float = 24 * 3600) -> None:
        """Drop what a crash left half written."""
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > older_than:
                    path.unlink()


async def fill(staged: Staged, chunks: AsyncIterable[bytes], *, limit: int | None = None, sentence: str = "") -> None:
    """Write a stream into a staged file, refusing it when it grows over `limit`."""
    async for chunk in chunks:
        if limit is not None and staged.size + len(chunk) > limit:
            raise TooLarge(sentence or f"This is over the limit of {limit} bytes.")
        await asyncio.to_thread(staged.write, chunk)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
