"""A pack: the gzipped tar of a project folder. Read without trust, and written anew for a container; nothing is ever unpacked here.

`inspect` reads a pack once and either lists it or refuses it with a sentence. `plain` turns an inspected one into the tar that an
engine puts into a container: ours by owner and mode, every name below `FOLDER`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from himalia_services.errors import Invalid, TooLarge

#: Where the project folder is mounted a second time, in `/run/himalia`: a path no program in a container can turn into a link, so that
#: putting the input in and taking the outputs out cannot be led elsewhere.
FOLDER = "input"
LIVE = "/run/himalia/live"
USER = 1000

MAX_BYTES = 200 << 20
MAX_FILES = 5_000
MAX_FILE_BYTES = 20 << 20
MAX_FOLDERS = 20_000
#: Of the upload itself: content that does not compress, and the tar's headers.
MAX_UPLOAD = MAX_BYTES + (16 << 20)

_MAX_NAME = 4096
_MAX_COMPONENT = 255
_MAX_HEADER = 64 << 10
_CHUNK = 256 << 10
_LIMITS = "A pack holds at most 200 MB in 5,000 files of 20 MB each; link what is larger, or exclude it."


@dataclass(frozen=True)
class Listing:
    """What a pack holds: regular files by path with the sha256 of each, and how much it is in all."""

    files: dict[str, str] = field(default_factory=dict)
    count: int = 0  # links as well
    size_bytes: int = 0


class _Bounded(io.RawIOBase):
    """Reads on until a limit, so that a small upload cannot unfold to any size."""

    def __init__(self, source: gzip.GzipFile, limit: int) -> None:
        self._source, self._left = source, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(_CHUNK if size < 0 else size)
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(_LIMITS)
        return data


class _Header(tarfile.TarInfo):
    """Refuses a header that would be read into memory whole at any size, before it is read."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        long = self.type in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise Invalid("The pack holds a sparse file. Pack it as a plain file, or exclude it.")
        if long and self.size > _MAX_HEADER:
            raise Invalid("The pack has a header that is far too long.")
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]


def inspect(source: BinaryIO) -> Listing:
    """List a pack, or raise Invalid or TooLarge with the sentence why not."""
    seen = _Seen()
    with _reading(source) as tar:
        for member in _members(tar):
            name = _name(member.name)
            seen.place(name, member)
            if member.isreg():
                seen.regular[name] = _hash(tar, member)
            elif member.islnk():
                seen.link(name, member)
    return Listing(files=seen.regular, count=seen.files, size_bytes=seen.size)


def plain(source: BinaryIO | None) -> Iterator[bytes]:
    """The tar to put into `/run/himalia`: the folder itself and the pack below it, owned by the user. None: an empty folder."""
    sink = _Sink()
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as out:  # type: ignore[call-overload]
        out.addfile(_ours(tarfile.TarInfo(FOLDER), tarfile.DIRTYPE, 0o755))
        if source is not None:
            with _reading(source) as tar:
                for member in _members(tar):
                    _copy(tar, member, out)
                    yield sink.take()
    yield sink.take()


def content(source: BinaryIO, path: str) -> Iterator[bytes]:
    """The bytes of the regular file `path` in a pack; nothing when there is none."""
    with _reading(source) as tar:
        for member in _members(tar):
            if member.isreg() and _name(member.name) == path:
                yield from _bytes(tar, member)
                return


class _Seen:
    """What was read so far, to refuse names that collide or lie below something that is no folder."""

    def __init__(self) -> None:
        self.regular: dict[str, str] = {}
        self.others: set[str] = set()
        self.folders: set[str] = {""}
        self.files = 0
        self.size = 0

    def place(self, name: str, member: tarfile.TarInfo) -> None:
        self._parents(name)
        if member.isdir():
            self._folder(name)
            return
        if name in self.folders or name in self.regular or name in self.others:
            raise Invalid(f"“{_short(name)}” is in the pack twice.")
        self._count(name, member)
        if member.issym():
            _check_link(name, member.linkname)
        if not member.isreg():
            self.others.add(name)

    def link(self, name: str, member: tarfile.TarInfo) -> None:
        target = _name(member.linkname)
        if target not in self.regular:
            raise Invalid(f"“{_short(name)}” is a hard link to “{_short(target)}”, which is not in the pack before it.")
        self.others.discard(name)
        self.regular[name] = self.regular[target]

    def _parents(self, name: str) -> None:
        parent = posixpath.dirname(name)
        while parent and parent not in self.folders:
            self._folder(parent)
            parent = posixpath.dirname(parent)

    def _folder(self, name: str) -> None:
        if name in self.regular or name in self.others:
            raise Invalid(f"“{_short(name)}” is a file or link in the pack, and something lies below it.")
        self.folders.add(name)
        if len(self.folders) > MAX_FOLDERS:
            raise TooLarge(f"The pack has more than {MAX_FOLDERS:,} folders. {_LIMITS}")

    def _count(self, name: str, member: tarfile.TarInfo) -> None:
        self.files += 1
        if self.files > MAX_FILES:
            raise TooLarge(f"The pack has more than {MAX_FILES:,} files. {_LIMITS}")
        if member.isreg():
            if member.size > MAX_FILE_BYTES:
                raise TooLarge(f"“{_short(name)}” has {member.size / 1e6:.0f} MB. {_LIMITS}")
            self.size += member.size
            if self.size > MAX_BYTES:
                raise TooLarge(f"The pack holds more than 200 MB. {_LIMITS}")


class _Sink:
    """Collects what tarfile writes until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


@contextmanager
def _reading(source: BinaryIO) -> Iterator[tarfile.TarFile]:
    bounded = _Bounded(gzip.GzipFile(fileobj=source), MAX_UPLOAD + 2048 * (MAX_FILES + MAX_FOLDERS))
    try:
        with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Header) as tar:
            yield tar
    except _BROKEN as error:
        name = type(error).__name__
        raise Invalid(f"The upload is not a gzipped tar that can be read to its end ({name}). Send it again.") from None


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every entry of a pack but the folder itself."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # tarfile keeps every header it read
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise Invalid(f"“{_short(member.name)}” is a device or pipe. A pack holds files, folders and links.")
        if member.sparse is not None:
            raise Invalid(f"“{_short(member.name)}” is a sparse file. Pack it as a plain file, or exclude it.")
        if not (member.isdir() and set(member.name.split("/")) <= {"", "."}):
            yield member


#: What tarfile, gzip and zlib raise on bytes that are not what they should be.
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError)


def _name(raw: str) -> str:
    """The normal form of an entry's name, relative to the folder."""
    if raw.startswith("/"):
        raise Invalid(f"“{_short(raw)}” is an absolute name. Names in a pack are relative to the project folder.")
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Invalid(f"“{_short(raw)}” leads out of the project folder.")
    name = "/".join(parts)
    if (
        not name
        or "\0" in name
        or len(name) > _MAX_NAME
        or any(len(part.encode(errors="surrogateescape")) > _MAX_COMPONENT for part in parts)
    ):
        raise Invalid(f"“{_short(raw)}” is not a name a file can have.")
    return name


def _check_link(name: str, target: str) -> None:
    if target.startswith("/"):
        inside = posixpath.normpath(target)
        if ".." not in target.split("/") and (inside == LIVE or inside.startswith(LIVE + "/")):
            return
        raise Invalid(
            f"“{_short(name)}” links to “{_short(target)}”. Links in a pack are relative, or lead below {LIVE}."
        )
    if not target:
        raise Invalid(f"“{_short(name)}” is a link without a target.")
    depth = 0
    for part in posixpath.join(posixpath.dirname(name), target).split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise Invalid(f"“{_short(name)}” links to “{_short(target)}”, which is outside the project folder.")


def _hash(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    digest = hashlib.sha256()
    for data in _bytes(tar, member):
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    left = member.size
    while left and (data := file.read(min(_CHUNK, left))):
        left -= len(data)
        yield data
    if left:
        raise EOFError


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, out: tarfile.TarFile) -> None:
    entry = tarfile.TarInfo(f"{FOLDER}/{_name(member.name)}")
    entry.mtime = int(member.mtime)
    if member.isreg():
        entry.size = member.size
        out.addfile(_ours(entry, tarfile.REGTYPE, stat.S_IMODE(member.mode) & 0o777 | 0o600), tar.extractfile(member))
    elif member.isdir():
        out.addfile(_ours(entry, tarfile.DIRTYPE, stat.S_IMODE(member.mode) & 0o777 | 0o700))
    elif member.issym():
        entry.linkname = member.linkname
        out.addfile(_ours(entry, tarfile.SYMTYPE, 0o777))
    else:
        entry.linkname = f"{FOLDER}/{_name(member.linkname)}"
        out.addfile(_ours(entry, tarfile.LNKTYPE, 0o644))


def _ours(entry: tarfile.TarInfo, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, USER, USER
    return entry


def _short(name: str) -> str:
    printable = name.encode("utf-8", "replace").decode()
    return printable if len(printable) <= 80 else printable[:79] + "…"
