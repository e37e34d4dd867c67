"""What git knows about a project folder: the commit, the tracked files, whether they were edited.

Only plumbing that reads the object store and the index is called, and the working files are compared here: a repository's
own settings can name programs to run (filters, monitors), and a folder of a group is not always one's own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Tracked:
    """`files` maps a path relative to the project folder to git's id of its content."""

    commit: str = ""
    staged: bool = False
    files: Mapping[str, str] = field(default_factory=dict)


def look(folder: Path) -> Tracked:
    """What git knows; nothing where there is no git, no repository or no commit."""
    listing = _git(folder, "ls-files", "-z", "--stage")
    if listing is None:
        return Tracked()
    files = {}
    for entry in listing.split(b"\0"):
        meta, tab, name = entry.partition(b"\t")
        if tab and meta.startswith(b"100"):
            files[os.fsdecode(name)] = meta.split()[1].decode()
        elif tab:
            files[os.fsdecode(name)] = ""  # a link or a submodule: tracked, its content is not compared
    head = _git(folder, "rev-parse", "--verify", "HEAD")
    if head is None:
        return Tracked(files=files)
    staged = _git(folder, "diff-index", "--cached", "--quiet", "HEAD", "--", ".") is None
    return Tracked(commit=head.decode().strip(), staged=staged, files=files)


def edited(folder: Path, tracked: Tracked, packed: Set[str]) -> bool:
    """Whether what git tracks here is other than the commit says. Content is compared for the `packed` files only."""
    if tracked.staged or any(not os.path.lexists(folder / name) for name in tracked.files):
        return True
    return any(id and name in packed and blob_id(folder / name, len(id)) != id for name, id in tracked.files.items())


def blob_id(path: Path, length: int) -> str:
    """Git's id of a file's bytes; empty when it is gone."""
    hashing = hashlib.sha256 if length == 64 else hashlib.sha1
    try:
        with open(path, "rb") as file:
            digest = hashing(b"blob %d\0" % os.fstat(file.fileno()).st_size)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> bytes | None:
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
