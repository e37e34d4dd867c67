"""Where a container keeps its own changes, and which of them are not part of an environment. Reads, never writes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from himalia_services.errors import EngineError

#: Never saved: volatile on any real system, or ours. What must not leave with an image (tokens, kernels' keys) lives here.
#: The last one holds the sockets of VS Code and TensorBoard: gone at the next start, and no loss to report.
EXCLUDED = (
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp/himalia-*",
    "/var/lib/himalia",
    "/tmp/jupyter-server-proxy-*",
)

#: Files that the runtime makes as mount points; a person's own of that name has content.
RUNTIME_FILES = ("/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")

_OCTAL = re.compile(rb"\\([0-7]{3})")
_BACKSLASH = re.compile(rb"\\([,:\\])")


@dataclass(frozen=True)
class MountLine:
    target: bytes
    kind: bytes
    options: tuple[bytes, ...]

    def option(self, name: bytes) -> bytes | None:
        for option in self.options:
            key, _, value = option.partition(b"=")
            if key == name:
                return _BACKSLASH.sub(rb"\1", _unescape(value))
        return None


@dataclass(frozen=True)
class Changes:
    """The upper folder of a container, as seen from here, and what hides parts of its tree."""

    upper: Path
    mounts: frozenset[bytes]  # targets, without the leading slash


@dataclass(frozen=True)
class Exclusions:
    """Paths (without the leading slash) that stay out, with everything below them."""

    always: frozenset[bytes]
    when_empty: frozenset[bytes]  # files the runtime makes: left out only while they are empty
    globs: dict[bytes, tuple[re.Pattern[bytes], ...]] = field(default_factory=dict)  # parent folder → patterns of names

    def hides(self, parent: bytes, name: bytes, path: bytes) -> bool:
        if path in self.always:
            return True
        patterns = self.globs.get(parent)
        return patterns is not None and any(pattern.fullmatch(name) for pattern in patterns)

    def is_runtime_file(self, path: bytes, status: os.stat_result) -> bool:
        return path in self.when_empty and stat.S_ISREG(status.st_mode) and status.st_size == 0


def exclusions(excluded: Iterable[str], mounts: Iterable[bytes]) -> Exclusions:
    """`excluded` are absolute paths; the last part of one may hold `*`."""
    always = set(mounts)
    globs: dict[bytes, tuple[re.Pattern[bytes], ...]] = {}
    for text in excluded:
        path = os.fsencode(text).strip(b"/")
        parent, _, name = path.rpartition(b"/")
        if b"*" in name:
            pattern = re.compile(b".*".join(map(re.escape, name.split(b"*"))), re.DOTALL)
            globs[parent] = (*globs.get(parent, ()), pattern)
        else:
            always.add(path)
    when_empty = frozenset(os.fsencode(path).strip(b"/") for path in RUNTIME_FILES)
    return Exclusions(frozenset(always - when_empty), when_empty, globs)


def find(
    pid: int, container: str, *, upper: str = "", mounts: Iterable[str] = (), host: str = "", check: bool = True
) -> Changes:
    """The changes of a container.

    `pid` is that of its init process, 0 when it is stopped; then `upper` (what the engine says) is needed. `host` leads to
    the root of the engine's file system, for a process that lives in another one. `check`: it must be there to read.
    """
    targets = {os.fsencode(target).strip(b"/") for target in mounts}
    folder = os.fsencode(upper)
    if pid and belongs(pid, container):
        lines = mount_lines(Path(f"/proc/{pid}/mountinfo").read_bytes())
        targets |= {line.target.strip(b"/") for line in lines} - {b""}
        own = upper_folder(lines)
        # with very many layers Docker mounts by paths relative to its own folder; the engine's word is absolute
        folder = own if own.startswith(b"/") else folder
    if not folder:
        raise EngineError(
            f"The changes of the container {container[:12]} cannot be found while it is stopped: this engine does not say "
            "where they are. Start the workspace and save it then."
        )
    path = Path(host + os.fsdecode(folder)) if host else Path(os.fsdecode(folder))
    if check and not path.is_dir():
        raise EngineError(
            f"The folder with the container's changes, {path}, cannot be read here. Saving needs an engine on this very "
            "machine that keeps containers on overlayfs."
        )
    return Changes(path, frozenset(targets))


def belongs(pid: int, container: str) -> bool:
    """Whether the process is still one of the container: ids of processes are used again."""
    try:
        return container.encode() in Path(f"/proc/{pid}/cgroup").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def mount_lines(table: bytes) -> list[MountLine]:
    lines: list[MountLine] = []
    for line in table.splitlines():
        left, separator, right = line.partition(b" - ")
        fields, tail = left.split(b" "), right.split(b" ")
        if separator and len(fields) >= 6 and len(tail) >= 3:
            lines.append(MountLine(_unescape(fields[4]), tail[0], tuple(tail[2].split(b","))))
    return lines


def upper_folder(lines: Iterable[MountLine]) -> bytes:
    """The upper folder of the last mount at `/`, which is the one that is seen."""
    roots = [line for line in lines if line.target == b"/"]
    if not roots:
        raise EngineError("The container has no root in its mount table; it is starting or ending. Try again.")
    upper = roots[-1].option(b"upperdir")
    if roots[-1].kind != b"overlay" or upper is None:
        raise EngineError(
            f"The container's root is on {roots[-1].kind.decode(errors='replace')}, not on overlayfs, so its changes cannot "
            "be read. Use an engine with overlay2 (or containerd's overlayfs)."
        )
    return upper


def _unescape(text: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), text)
