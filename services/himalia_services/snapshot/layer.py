"""The bytes of a layer: tar entries for what overlayfs keeps in an upper folder. Pure but for `walk` and `attributes`, which read.

Names are bytes and are never decoded. Every name is opened below its parent's descriptor and never through a link: the
container's user owns the tree, may change it while we read, and we read as root of the host.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from himalia_services.errors import EngineError
from himalia_services.snapshot.changes import Exclusions

BLOCK = 512
END = bytes(2 * BLOCK)
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

FILE, LINK, SYMLINK, FOLDER, FIFO, _EXTENDED = b"0", b"1", b"2", b"5", b"6", b"x"

_LAYOUT = struct.Struct("100s48s8s1s100s8s247s")
_MAGIC = b"ustar\x0000"
_FIXED_SUM = sum(_MAGIC) + 8 * ord(" ")

_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777
_LARGEST_TIME = 0o77777777777

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = _OPEN | os.O_NONBLOCK
_OPEN_FOLDER = _OPEN | os.O_DIRECTORY


class Node(NamedTuple):
    """One entry of the tree: `parent` is the open folder it was found in, `own` its own descriptor when it is a folder."""

    path: bytes
    name: str
    status: os.stat_result
    parent: int
    own: int


class Attributes(NamedTuple):
    kept: tuple[tuple[bytes, bytes], ...] = ()
    opaque: bool = False
    left_out: tuple[str, ...] = ()


NO_ATTRIBUTES = Attributes()


def walk(root: int, exclusions: Exclusions) -> Iterator[Node]:
    """Parents before children, names sorted as bytes; what vanishes in between is not there. The root itself is not told."""
    stack = [(b"", root, _names(root))]
    try:
        while stack:
            path, folder, names = stack[-1]
            if not names:
                stack.pop()
                if stack:
                    os.close(folder)
                continue
            name, entry = names.pop()
            inner = path + b"/" + name if path else name
            if exclusions.hides(path, name, inner):
                continue
            try:
                if name.startswith(WHITEOUT):  # a layer cannot hold it, nor what is below it
                    yield Node(inner, entry.name, entry.stat(follow_symlinks=False), folder, -1)
                elif entry.is_dir(follow_symlinks=False):
                    own = os.open(entry.name, _OPEN_FOLDER, dir_fd=folder)
                    stack.append((inner, own, _names(own)))
                    yield Node(inner, entry.name, os.fstat(own), folder, own)
                else:
                    status = entry.stat(follow_symlinks=False)
                    if not exclusions.is_runtime_file(inner, status):
                        yield Node(inner, entry.name, status, folder, -1)
            except OSError as error:
                if not vanished(error):
                    raise
    finally:
        for _, folder, _ in stack[1:]:
            os.close(folder)


def _names(folder: int) -> list[tuple[bytes, os.DirEntry[str]]]:
    """Last name first: `walk` takes them from the end."""
    with os.scandir(folder) as entries:
        return sorted(((os.fsencode(entry.name), entry) for entry in entries), key=_by_name, reverse=True)


def _by_name(item: tuple[bytes, os.DirEntry[str]]) -> bytes:
    return item[0]


def vanished(error: OSError) -> bool:
    """Whether a name that was listed is gone or has become something else."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO)


def shown(path: bytes) -> str:
    """A path for people; names need not be text."""
    return "/" + path.decode(errors="backslashreplace")


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def attributes(node: Node, descriptor: int = -1) -> Attributes:
    """The extended attributes that a layer keeps; `descriptor` is the open file or folder, if there is one."""
    if descriptor >= 0:
        target: int | str = descriptor
    elif stat.S_ISLNK(node.status.st_mode):
        return NO_ATTRIBUTES  # a link has none that a layer keeps
    else:
        target = f"/proc/self/fd/{node.parent}/{node.name}"
    follow = descriptor >= 0
    names = os.listxattr(target, follow_symlinks=follow)
    if not names:
        return NO_ATTRIBUTES
    kept: list[tuple[bytes, bytes]] = []
    left_out: list[str] = []
    opaque = False
    for name in sorted(names):
        if name in ("trusted.overlay.redirect", "trusted.overlay.metacopy"):
            raise EngineError(
                f"{shown(node.path)} is kept by overlayfs in a way that only the running container can read "
                f"({name}). Turn redirect_dir and metacopy off for the engine."
            )
        if name == "trusted.overlay.opaque":
            opaque = os.getxattr(target, name, follow_symlinks=follow) == b"y"
        elif _is_kept(name):
            if "=" in name:
                left_out.append(f"{shown(node.path)}: its attribute {name!r}, since a layer cannot hold that name")
                continue
            try:
                kept.append((os.fsencode(name), os.getxattr(target, name, follow_symlinks=follow)))
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    return Attributes(tuple(kept), opaque, tuple(left_out))


def _is_kept(name: str) -> bool:
    if name.startswith("user."):
        return not name.startswith("user.overlay.")
    return name == "security.capability" or name.startswith("system.posix_acl_")


def whiteout(path: bytes) -> bytes:
    """The entry that says that `path` of the base is gone."""
    folder, separator, name = path.rpartition(b"/")
    return _header(folder + separator + WHITEOUT + name, 0o644, 0, 0, 0, 0, FILE)


def opaque(path: bytes) -> bytes:
    """The entry that says that nothing of the base is seen in the folder `path`."""
    return _header(path + b"/" + OPAQUE, 0o644, 0, 0, 0, 0, FILE)


def entry(
    path: bytes, status: os.stat_result, kind: bytes, link: bytes = b"", kept: Attributes = NO_ATTRIBUTES
) -> bytes:
    """The header of an entry, with its extended records before it; its content, padded to `BLOCK`, comes after it."""
    size = status.st_size if kind == FILE else 0
    name = path + b"/" if kind == FOLDER else path
    header = _header(
        name, status.st_mode & 0o7777, status.st_uid, status.st_gid, size, status.st_mtime_ns, kind, link, kept
    )
    return header + opaque(path) if kept.opaque and kind == FOLDER else header


def padding(size: int) -> int:
    return -size % BLOCK


def _header(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes = b"",
    kept: Attributes = NO_ATTRIBUTES,
) -> bytes:
    """`mtime` in nanoseconds. Extended records only where ustar does not reach."""
    extended = b""
    if len(name) > 100 or not name.isascii():
        extended += _record(b"path", name)
    if len(link) > 100 or not link.isascii():
        extended += _record(b"linkpath", link)
    if uid > _LARGEST_ID:
        extended += _record(b"uid", b"%d" % uid)
        uid = 0
    if gid > _LARGEST_ID:
        extended += _record(b"gid", b"%d" % gid)
        gid = 0
    if size > _LARGEST_SIZE:
        extended += _record(b"size", b"%d" % size)
        size = 0
    seconds, fraction = divmod(mtime, 1_000_000_000)
    if fraction or not 0 <= seconds <= _LARGEST_TIME:
        extended += _record(b"mtime", _time(mtime))
        seconds = min(max(seconds, 0), _LARGEST_TIME)
    for key, value in kept.kept:
        extended += _record(b"SCHILY.xattr." + key, value)
    block = _block(name[:100], mode, uid, gid, size, seconds, kind, link[:100])
    return _extended_header(len(extended)) + extended + bytes(padding(len(extended))) + block if extended else block


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    return b"%b%d.%09d" % (sign, seconds, fraction) if fraction else b"%b%d" % (sign, seconds)


def _record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`, where the length counts its own digits."""
    bare = len(key) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


@lru_cache(maxsize=256)
def _extended_header(size: int) -> bytes:
    # one name for all of them, so that this block depends on nothing but the size and is made once
    return _block(b"PaxHeaders/0", 0o644, 0, 0, size, 0, _EXTENDED, b"")


def _block(name: bytes, mode: int, uid: int, gid: int, size: int, seconds: int, kind: bytes, link: bytes) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, seconds)
    total = _FIXED_SUM + _sum(name) + _sum(numbers) + kind[0] + _sum(link)
    return _LAYOUT.pack(name, numbers, b"%06o\0 " % total, kind, link, _MAGIC, b"")


def _sum(text: bytes, adler: Callable[[bytes], int] = zlib.adler32) -> int:
    """The sum of up to 256 bytes: the low half of Adler-32 is that plus one, below its modulus, and made in C."""
    return (adler(text) & 0xFFFF) - 1
