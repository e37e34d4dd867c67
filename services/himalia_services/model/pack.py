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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from himalia_services.errors import Invalid, TooLarge

#: Where the project folder is mounted a second time, in `/run/himalia`: a path no program in a container can turn into a link, so that
#: putting the input in and taking the outputs out cannot be led elsewhere.
FOLDER = "input"
USER = 1000

_MAX_NAME = 4096
_MAX_COMPONENT = 255
_MAX_HEADER = 64 << 10
_CHUNK = 256 << 10


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a pack may hold."""

    total_bytes: int
    files: int
    file_bytes: int
    folders: int
    advice: str

    @property
    def sentence(self) -> str:
        each = f" of {self.file_bytes // 10**6} MB each" if self.file_bytes < self.total_bytes else ""
        return f"A pack holds at most {self.total_bytes // 10**6:,} MB in {self.files:,} files{each}. {self.advice}"

    @property
    def unfolded(self) -> int:
        """Bytes of the tar itself: the content, and a generous share of headers for each entry."""
        return self.total_bytes + 4096 * (self.files + self.folders)

    @property
    def upload(self) -> int:
        """Bytes of the upload: content that does not compress grows a little."""
        return self.unfolded + (self.unfolded >> 8)


USUAL = Limits(
    total_bytes=200_000_000,
    files=5_000,
    file_bytes=20_000_000,
    folders=20_000,
    advice="Link what is larger, exclude it, or send everything with --upload.",
)
#: For who asked to send everything, whatever its size.
WHOLE = Limits(
    total_bytes=5_000_000_000,
    files=100_000,
    file_bytes=5_000_000_000,
    folders=100_000,
    advice="Put larger data into your home or a group's folder, where every job sees it.",
)


@dataclass(frozen=True)
class Listing:
    """What a pack holds: regular files by path with the sha256 of each, and how much it is in all."""

    files: dict[str, str] = field(default_factory=dict)
    count: int = 0  # links as well
    size_bytes: int = 0


class _Bounded(io.RawIOBase):
    """Reads on until a limit, so that a small upload cannot unfold to any size."""

    def __init__(self, source: gzip.GzipFile, limits: Limits) -> None:
        self._source, self._left, self._limits = source, limits.unfolded, limits

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(_CHUNK if size < 0 else size)
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(self._limits.sentence)
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
        if self.type == tarfile.XGLTYPE:  # kept for the whole tar, and they add up
            raise Invalid("The pack has global headers, which no client of ours writes. Pack it with `himalia`.")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise Invalid("The pack holds a sparse file. Pack it as a plain file, or exclude it.")
        if long and self.size > _MAX_HEADER:
            raise Invalid("The pack has a header that is far too long.")
        return super()._proc_member(tar)  # pyright: ignore[reportAttributeAccessIssue]


def inspect(source: BinaryIO, limits: Limits = USUAL) -> Listing:
    """List a pack, or raise Invalid or TooLarge with the sentence why not."""
    seen = _Seen(limits)
    with _reading(source, limits) as tar:
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
    yield from entry(_ours(tarfile.TarInfo(FOLDER), tarfile.DIRTYPE, 0o755))
    if source is not None:
        folders: set[str] = {""}
        with _reading(source) as tar:
            for member in _members(tar):
                name = _name(member.name)
                yield from _lead(name, folders)
                if member.isdir():
                    folders.add(name)
                yield from _copy(tar, member)
    yield END


#: What every tar ends with.
END = bytes(2 * tarfile.BLOCKSIZE)


def entry(header: tarfile.TarInfo, data: Iterable[bytes] = ()) -> Iterator[bytes]:
    """One entry of a tar that is made as it is sent; `data` has as many bytes as the header says."""
    yield header.tobuf(tarfile.PAX_FORMAT)
    yield from data
    yield bytes(-header.size % tarfile.BLOCKSIZE)


def gathered(pieces: Iterable[bytes], size: int = _CHUNK) -> Iterator[bytes]:
    """The same bytes in pieces of at least `size` but the last: each may be a trip to a thread."""
    parts: list[bytes] = []
    held = 0
    for piece in pieces:
        parts.append(piece)
        held += len(piece)
        if held >= size:
            yield b"".join(parts)
            parts, held = [], 0
    if held:
        yield b"".join(parts)


def content(source: BinaryIO, path: str) -> Iterator[bytes]:
    """The bytes of the regular file `path` in a pack; nothing when there is none."""
    with _reading(source) as tar:
        for member in _members(tar):
            if member.isreg() and _name(member.name) == path:
                yield from _bytes(tar, member)
                return


class _Seen:
    """What was read so far, to refuse names that collide or lie below something that is no folder."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
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
        if len(self.folders) > self.limits.folders:
            raise TooLarge(f"The pack has more than {self.limits.folders:,} folders. {self.limits.sentence}")

    def _count(self, name: str, member: tarfile.TarInfo) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise TooLarge(f"The pack has too many files. {self.limits.sentence}")
        if member.isreg():
            if member.size > self.limits.file_bytes:
                raise TooLarge(f"“{_short(name)}” has {member.size / 1e6:.1f} MB. {self.limits.sentence}")
            self.size += member.size
            if self.size > self.limits.total_bytes:
                raise TooLarge(f"The pack is too large. {self.limits.sentence}")


@contextmanager
def _reading(source: BinaryIO, limits: Limits = WHOLE) -> Iterator[tarfile.TarFile]:
    bounded = _Bounded(gzip.GzipFile(fileobj=source), limits)
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
#: RecursionError: a header that only announces another one, a thousand times over.
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, RecursionError)


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
    """Links are followed by programs in the container only, as its user; the rules keep people from a link that means nothing there."""
    parts = target.split("/")
    if not target:
        raise Invalid(f"“{_short(name)}” is a link without a target.")
    if target.startswith("/"):
        if ".." in parts:
            raise Invalid(f"“{_short(name)}” links to “{_short(target)}”. Write an absolute target without “..”.")
        return
    depth = name.count("/")
    for part in parts:
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


def _lead(name: str, folders: set[str]) -> Iterator[bytes]:
    """Folders a pack does not name: whoever unpacks it would make them root's."""
    parent = posixpath.dirname(name)
    missing = []
    while parent not in folders:
        folders.add(parent)
        missing.append(parent)
        parent = posixpath.dirname(parent)
    for folder in reversed(missing):
        yield from entry(_ours(tarfile.TarInfo(f"{FOLDER}/{folder}"), tarfile.DIRTYPE, 0o755))


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    header = tarfile.TarInfo(f"{FOLDER}/{_name(member.name)}")
    header.mtime = int(member.mtime)
    mode = stat.S_IMODE(member.mode) & 0o777
    if member.isreg():
        header.size = member.size
        yield from entry(_ours(header, tarfile.REGTYPE, mode | 0o600), _bytes(tar, member))
    elif member.isdir():
        yield from entry(_ours(header, tarfile.DIRTYPE, mode | 0o700))
    elif member.issym():
        header.linkname = member.linkname
        yield from entry(_ours(header, tarfile.SYMTYPE, 0o777))
    else:
        header.linkname = f"{FOLDER}/{_name(member.linkname)}"
        yield from entry(_ours(header, tarfile.LNKTYPE, mode | 0o600))


def _ours(entry: tarfile.TarInfo, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, USER, USER
    return entry


def _short(name: str) -> str:
    printable = name.encode("utf-8", "replace").decode()
    return printable if len(printable) <= 80 else printable[:79] + "…"
