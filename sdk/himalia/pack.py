"""Packing a project folder, so that a job runs the code as it was at submit.

`project()` finds the folder, decides what goes in, what is linked and what stays out, and writes a gzipped tar whose bytes
depend on the folder alone. It talks to nobody; the job's folder, working directory and links mean what they mean where the
person is, because a workspace's home and group folders are in its jobs too, also below `/run/himalia/live`.

From elsewhere (a laptop) there is nothing to link to: the folder appears below `/job`, and what is too large is refused by name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import posixpath
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO

from himalia import _git
from himalia._ignore import Ignore
from himalia.errors import PackError
from himalia.login import inside_workspace
from himalia.schema import JobInput

FILE_LIMIT = 20_000_000
TOTAL_LIMIT = 200_000_000
COUNT_LIMIT = 5_000

LIVE = PurePosixPath("/run/himalia/live")
MARKERS = (".git", "pyproject.toml", ".himaliaignore")
IGNORE_FILE = ".himaliaignore"

#: Folders that are made from others and found again in the environment, or by the next run.
_MADE = frozenset({"__pycache__", "node_modules"})
_PROGRAMS = frozenset(
    [
        ".py",
        ".pyi",
        ".pyx",
        ".ipynb",
        ".sh",
        ".bash",
        ".r",
        ".rmd",
        ".jl",
        ".scala",
        ".java",
        ".kt",
        ".c",
        ".cc",
        ".cpp",
        ".cxx",
        ".h",
        ".hpp",
        ".cu",
        ".rs",
        ".go",
        ".js",
        ".ts",
        ".sql",
        ".pl",
        ".lua",
        ".m",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the person is. In a workspace home and group folders are there in the job too, at the same paths."""

    home: Path
    workspace: bool

    @classmethod
    def here(cls, env: Mapping[str, str] | None = None) -> Place:
        env = os.environ if env is None else env
        return cls(home=Path(env.get("HOME") or os.path.expanduser("~")).resolve(), workspace=inside_workspace(env))

    def group_folder(self, path: Path) -> bool:
        return self.workspace and path.parent == self.home / "shared"

    def crowded(self, path: Path) -> bool:
        """Whether a folder holds more than one project: a home, a group's folder, the first level of the file system."""
        return (
            path == self.home
            or path in self.home.parents
            or len(path.parts) <= 2
            or self.group_folder(path)
            or (self.workspace and path == self.home / "shared")
        )

    def live(self, path: Path) -> str | None:
        """Where a job finds what lies at `path` as it is at that moment; None where a job cannot see it."""
        if not self.workspace or not path.is_relative_to(self.home):
            return None
        inner = path.relative_to(self.home).parts
        if inner[:1] != ("shared",):
            return str(LIVE.joinpath("home", *inner))
        return str(LIVE.joinpath(*inner)) if len(inner) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Link:
    """Something too large to pack: `path` in the folder leads to `target`. The size is unknown where nobody had to look."""

    path: str
    target: str
    folder: bool
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A packed folder. `path` is where it appears in the job; the file lives until `close()`, or the end of a `with`."""

    file: Path
    digest: str
    size_bytes: int
    files: int
    content_bytes: int
    folder: Path
    path: str
    working_dir: str
    source: str = ""  # the script or notebook as the job sees it: below working_dir, or absolute
    links: Sequence[Link] = ()
    notes: Sequence[str] = ()
    git_commit: str = ""
    git_dirty: bool = False

    @property
    def input(self) -> JobInput:
        return JobInput(digest=self.digest, path=self.path, git_commit=self.git_commit, git_dirty=self.git_dirty)

    def summary(self) -> str:
        """What happened in one line: `packed 14 files, 80 kB; linked data/ (9.1 GB, stays live)`."""
        text = f"packed {count(self.files, 'file')}, {size(self.content_bytes)}"
        sized = [link for link in self.links if link.size_bytes is not None]
        for link in sized[:3]:
            text += f"; linked {link.path}{'/' if link.folder else ''} ({size(link.size_bytes or 0)}, stays live)"
        if len(sized) > 3:
            text += (
                f"; linked {len(sized) - 3} more ({size(sum(link.size_bytes or 0 for link in sized[3:]))}, stay live)"
            )
        if others := len(self.links) - len(sized):
            text += f"; linked {others} other {'entry' if others == 1 else 'entries'} ({'stays' if others == 1 else 'stay'} live)"
        return text

    def close(self) -> None:
        self.file.unlink(missing_ok=True)

    def __enter__(self) -> Pack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def project(
    source: str | Path | None = None,
    *,
    notebook: bool = False,
    folder: str | Path | None = None,
    exclude: Iterable[str] = (),
    upload: bool = False,
    cwd: str | Path | None = None,
    place: Place | None = None,
) -> Pack:
    """Pack the project of a script or notebook, or without one (a command) the current folder.

    `exclude` are patterns as in `.himaliaignore`; `upload` packs everything whatever its size; `cwd` is where the person is.
    """
    place = place or Place.here()
    here = Path(cwd or os.getcwd()).resolve()
    program = _program(source, here) if source is not None else None
    root = _root(program, folder, here, place)
    contents = _contents(root, program, exclude, upload, place)
    path = _path_in_job(root, place)
    working_dir = _working_dir(root, path, program.parent if program and notebook else here, place)
    tracked = _git.look(root) if not place.crowded(root) else _git.Tracked()
    file, digest, packed = _write(root, contents)
    return Pack(
        file=file,
        digest=digest,
        size_bytes=file.stat().st_size,
        files=len(contents.files),
        content_bytes=packed,
        folder=root,
        path=path,
        working_dir=working_dir,
        source=_seen_from(working_dir, path, program.relative_to(root).as_posix()) if program else "",
        links=contents.links,
        notes=contents.notes,
        git_commit=tracked.commit,
        git_dirty=bool(tracked.commit) and _git.edited(root, tracked, set(contents.files)),
    )


# --- Which folder, and where it appears ---


def _program(source: str | Path, here: Path) -> Path:
    given = here / Path(source).expanduser()
    # The folder is resolved and the name is not: a link to a script is that script, in the folder where the link lies.
    program = given.parent.resolve() / given.name
    if not program.is_file():
        raise PackError(f"There is no file {source}.", code="no_such_file")
    return program


def _root(program: Path | None, folder: str | Path | None, here: Path, place: Place) -> Path:
    if folder is not None:
        chosen = (here / Path(folder).expanduser()).resolve()
        if not chosen.is_dir():
            raise PackError(f"There is no folder {folder}.", code="no_such_file")
        if program is not None and not program.is_relative_to(chosen):
            raise PackError(f"{program.name} is not in {chosen}. Choose a folder that holds it.", code="outside_folder")
        if place.crowded(chosen) and (program is None or program.parent != chosen):
            raise PackError(f"{chosen} holds more than a project. Choose a folder below it.", code="no_project")
        return chosen
    if program is None:
        return here
    start = program.parent
    for candidate in (start, *start.parents):
        if place.crowded(candidate):
            break
        if any((candidate / marker).exists() for marker in MARKERS):
            return candidate
    return start


def _path_in_job(root: Path, place: Place) -> str:
    if place.workspace and root.is_relative_to(place.home):
        return str(root)
    return f"/job/{re.sub(r'[^A-Za-z0-9._-]', '_', root.name).lstrip('.') or 'project'}"


def _working_dir(root: Path, path: str, here: Path, place: Place) -> str:
    if here.is_relative_to(root):
        return str(PurePosixPath(path, here.relative_to(root).as_posix()))
    if place.workspace and here.is_relative_to(place.home):
        return str(here)
    return path


def _seen_from(working_dir: str, path: str, inner: str) -> str:
    whole = PurePosixPath(path, inner)
    return str(whole.relative_to(working_dir)) if whole.is_relative_to(working_dir) else str(whole)


# --- What goes in ---


@dataclass(kw_only=True)
class _Node:
    """A file, or a folder with everything below it that is not left out."""

    path: str
    size: int = 0
    count: int = 0
    programs: bool = False
    children: list[_Node] | None = None
    parent: _Node | None = None

    @property
    def folder(self) -> bool:
        return self.children is not None

    def files(self) -> Iterator[_Node]:
        if self.children is None:
            yield self
        for child in self.children or ():
            yield from child.files()

    def holds(self, path: str) -> bool:
        return path == self.path or path.startswith(f"{self.path}/") or not self.path


@dataclass(kw_only=True)
class _Contents:
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    symlinks: dict[str, str] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _contents(root: Path, program: Path | None, exclude: Iterable[str], upload: bool, place: Place) -> _Contents:
    scan = _Scan(root, place, Ignore(exclude))
    keep = program.relative_to(root).as_posix() if program else None
    if place.crowded(root):
        tree = scan.beside(keep)
    else:
        if (root / IGNORE_FILE).is_file():
            scan.ignore = Ignore([*(root / IGNORE_FILE).read_text(errors="replace").splitlines(), *exclude])
        tree = scan.everything(frozenset(_git.look(root).files))
    if keep is not None and keep not in {node.path for node in tree.files()} and keep not in scan.out.symlinks:
        raise PackError(f"{keep} is left out by a pattern; a job needs it.", code="excluded")
    tree.count += len(scan.out.symlinks)
    chosen = [] if upload else _too_large(tree, keep)
    if chosen and place.live(root) is None:
        raise _over_limits(chosen, place)
    _settle(scan, tree, {node.path: node for node in chosen})
    return scan.out


class _Scan:
    """One look at a folder. `out` collects what needs no decision: symbolic links, and what a crowded folder leaves live."""

    def __init__(self, root: Path, place: Place, ignore: Ignore) -> None:
        self.root = root
        self.place = place
        self.ignore = ignore
        self.out = _Contents()

    def everything(self, tracked: frozenset[str]) -> _Node:
        dotted = {
            "/".join(parts[: i + 1])
            for parts in (name.split("/") for name in tracked)
            for i, part in enumerate(parts)
            if part.startswith(".")
        }
        return self._folder("", dotted)

    def beside(self, keep: str | None) -> _Node:
        """The program and the ones beside it; the rest of a home or group folder stays live, or does not go along."""
        tree = _Node(path="", children=[])
        for entry in _entries(self.root):
            wanted = entry.name == keep or entry.name.endswith((".py", ".ipynb"))
            if self.ignore(entry.name, entry.is_dir(follow_symlinks=False)):
                continue
            if entry.is_symlink() and (wanted or self.place.live(self.root)):
                self._symlink(entry, entry.name)
            elif (
                wanted
                and entry.is_file(follow_symlinks=False)
                and not (entry.name.startswith(".") and entry.name != keep)
            ):
                _add(tree, _file(entry, entry.name))
            elif target := self.place.live(self.root / entry.name):
                self.out.links.append(Link(path=entry.name, target=target, folder=entry.is_dir(follow_symlinks=False)))
        self.out.notes.append(self._sentence(keep))
        return tree

    def _sentence(self, keep: str | None) -> str:
        kind = (
            "Your home"
            if self.root == self.place.home
            else "A group's folder"
            if self.place.group_folder(self.root)
            else str(self.root)
        )
        packed = f"{keep} and the *.py and *.ipynb files beside it" if keep else "the *.py and *.ipynb files in it"
        rest = "everything else there stays live" if self.place.live(self.root) else "nothing else of it goes along"
        return f"{kind} is no project folder: {packed} are packed, {rest}. Move the work into a folder of its own to freeze all of it."

    def _folder(self, path: str, dotted: set[str]) -> _Node:
        node = _Node(path=path, children=[])
        for entry in _entries(self.root / path):
            inner = f"{path}/{entry.name}" if path else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if (
                (entry.name.startswith(".") and inner not in dotted)
                or entry.name in _MADE
                or self.ignore(inner, is_folder)
            ):
                continue
            if entry.is_symlink():
                self._symlink(entry, inner)
            elif is_folder and not _is_virtual_environment(entry):
                _add(node, self._folder(inner, dotted))
            elif entry.is_file(follow_symlinks=False):
                _add(node, _file(entry, inner))
        return node

    def _symlink(self, entry: os.DirEntry[str], inner: str) -> None:
        text = os.readlink(entry.path)
        real = Path(os.path.realpath(entry.path))
        target = self.place.live(real)
        if real.is_relative_to(self.root):
            stays = not os.path.isabs(text) and _stays_inside(posixpath.join(posixpath.dirname(inner), text))
            self.out.symlinks[inner] = text if stays else os.path.relpath(real, os.path.dirname(entry.path))
        elif target is not None:
            self.out.symlinks[inner] = target
        elif not real.exists():
            self.out.notes.append(f"{inner} leads nowhere and is left out.")
        elif self.place.workspace:
            self.out.notes.append(
                f"{inner} is left out: it leads to {real}, neither in your home nor in a group's folder. Use that path itself."
            )
        else:
            raise PackError(
                f"{inner} leads out of the folder, to {real}, which a job does not see. Copy it in, or leave it out with --exclude.",
                code="link_outside",
            )


def _stays_inside(path: str) -> bool:
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise PackError(f"{folder} cannot be read. Leave it out with --exclude.", code="unreadable") from None


def _is_virtual_environment(entry: os.DirEntry[str]) -> bool:
    return os.path.exists(os.path.join(entry.path, "pyvenv.cfg")) or os.path.isdir(
        os.path.join(entry.path, "conda-meta")
    )


def _file(entry: os.DirEntry[str], inner: str) -> _Node:
    program = os.path.splitext(entry.name)[1].lower() in _PROGRAMS
    return _Node(path=inner, size=entry.stat(follow_symlinks=False).st_size, count=1, programs=program)


def _add(folder: _Node, child: _Node) -> None:
    assert folder.children is not None
    child.parent = folder
    folder.children.append(child)
    folder.size += child.size
    folder.count += child.count
    folder.programs = folder.programs or child.programs


# --- Limits ---


def _too_large(tree: _Node, keep: str | None) -> list[_Node]:
    """What to take out so that the rest is within the limits: folders whole where they hold no program, else single files."""
    chosen: dict[str, _Node] = {}
    for file in tree.files():
        if file.size > FILE_LIMIT and not any(c.holds(file.path) for c in chosen.values()):
            node = _widest(file, keep)
            chosen = {path: c for path, c in chosen.items() if not node.holds(path)} | {node.path: node}
    while over := _over(tree, chosen):
        node = _next(tree, chosen, keep, over)
        if node is None:
            raise PackError(
                f"The folder has {count(tree.count, 'file')}, {size(tree.size)}, which is over the limit of {COUNT_LIMIT:,} files and {size(TOTAL_LIMIT)}, "
                "and nothing in it can be taken out whole. Leave files out with --exclude, or choose a smaller --folder.",
                code="over_limits",
            )
        chosen[node.path] = node
    return sorted(chosen.values(), key=lambda node: node.path)


def _widest(file: _Node, keep: str | None) -> _Node:
    """The widest folder around a file that holds no program, or the file."""
    node = file
    while (
        node.parent is not None
        and node.parent.path
        and not node.parent.programs
        and not (keep and node.parent.holds(keep))
    ):
        node = node.parent
    return node


def _over(tree: _Node, chosen: Mapping[str, _Node]) -> str:
    out = chosen.values()
    if tree.size - sum(node.size for node in out) > TOTAL_LIMIT:
        return "size"
    # Each thing taken out is still there as a link.
    return "count" if tree.count - sum(node.count - 1 for node in out) > COUNT_LIMIT else ""


def _next(tree: _Node, chosen: Mapping[str, _Node], keep: str | None, over: str) -> _Node | None:
    """The largest thing left: a folder without programs, else a file that is none, else a folder that is not the program's."""

    def free(node: _Node) -> bool:
        return not any(c.holds(node.path) or node.holds(c.path) for c in chosen.values()) and not (
            keep and node.holds(keep)
        )

    def widest() -> Iterator[_Node]:
        seen = set()
        for file in tree.files():
            node = _widest(file, keep)
            if node.path not in seen and not file.programs:
                seen.add(node.path)
                yield node

    rounds: tuple[Iterable[_Node], ...] = (
        (n for n in widest() if n.folder),
        (n for n in tree.files() if over == "size" and not n.programs),
        (n for n in tree.children or () if n.folder),
    )
    for candidates in rounds:
        fitting = [n for n in candidates if free(n)]
        if fitting:
            return max(fitting, key=lambda n: (getattr(n, over), n.path))
    return None


def _over_limits(chosen: Sequence[_Node], place: Place) -> PackError:
    largest = sorted(chosen, key=lambda node: -node.size)
    names = ", ".join(
        f"{n.path}{'/' if n.folder else ''} ({size(n.size)}, {count(n.count, 'file')})"
        if n.folder
        else f"{n.path} ({size(n.size)})"
        for n in largest[:5]
    )
    more = f" and {len(largest) - 5} more" if len(largest) > 5 else ""
    where = "This folder is not in your home or a group's folder" if place.workspace else "This is not a workspace"
    return PackError(
        f"Too large to pack: {names}{more}. Limits are {size(FILE_LIMIT)} a file, {size(TOTAL_LIMIT)} and {COUNT_LIMIT:,} files in all. "
        f"{where}, so nothing can be linked: leave them out with --exclude, or send everything with --upload.",
        code="over_limits",
        extra={"files": [n.path for n in largest]},
    )


def _settle(scan: _Scan, node: _Node, linked: Mapping[str, _Node]) -> None:
    out = scan.out
    if node.path in linked and node.path:
        target = scan.place.live(scan.root / node.path)
        assert target is not None
        out.links.append(Link(path=node.path, target=target, folder=node.folder, size_bytes=node.size))
        for inner in [path for path in out.symlinks if node.holds(path)]:
            del out.symlinks[inner]
    elif node.children is None:
        out.files.append(node.path)
    else:
        if node.path:
            out.folders.append(node.path)
        for child in node.children:
            _settle(scan, child, linked)


# --- The tar ---


def _write(root: Path, contents: _Contents) -> tuple[Path, str, int]:
    """The file, the digest of its bytes, and how many bytes of content went in."""
    links = {link.path: link.target for link in contents.links} | contents.symlinks
    names = sorted([*contents.folders, *contents.files, *links], key=lambda name: name.split("/"))
    files = set(contents.files)
    handle, name = tempfile.mkstemp(prefix="himalia-", suffix=".tar.gz")
    packed = 0
    try:
        with os.fdopen(handle, "wb") as raw:
            hashing = _Hashing(raw)
            with (
                gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=hashing, mtime=0) as zipped,
                tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for inner in names:
                    if inner in files:
                        packed += _add_file(tar, root, inner)
                    else:
                        tar.addfile(_entry(root, inner, links.get(inner)))
    except BaseException:
        os.unlink(name)
        raise
    return Path(name), f"sha256:{hashing.digest.hexdigest()}", packed


class _Hashing(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:  # type: ignore[override]
        self.digest.update(data)  # type: ignore[arg-type]
        return self.file.write(data)  # type: ignore[arg-type]


def _entry(root: Path, inner: str, target: str | None) -> tarfile.TarInfo:
    found = os.lstat(root / inner)
    info = tarfile.TarInfo(inner)
    # Everything belongs to the one user of every image; whose it was on a laptop means nothing there.
    info.uid = info.gid = 1000
    info.mtime = int(found.st_mtime)
    if target is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        # A link made for something too large has no time of its own; its target's would change the pack with the data.
        if not stat.S_ISLNK(found.st_mode):
            info.mtime = 0
    else:
        info.type, info.mode = tarfile.DIRTYPE, stat.S_IMODE(found.st_mode) | 0o700
    return info


def _add_file(tar: tarfile.TarFile, root: Path, inner: str) -> int:
    try:
        with open(root / inner, "rb") as file:
            found = os.fstat(file.fileno())
            info = tarfile.TarInfo(inner)
            info.uid = info.gid = 1000
            info.mtime = int(found.st_mtime)
            info.mode = (stat.S_IMODE(found.st_mode) & 0o777) | 0o600
            info.size = found.st_size
            tar.addfile(info, file)
            return found.st_size
    except FileNotFoundError:
        raise PackError(f"{inner} went away while it was packed. Submit again.", code="changed") from None
    except PermissionError:
        raise PackError(f"{inner} cannot be read. Leave it out with --exclude.", code="unreadable") from None
    except OSError as error:
        raise PackError(f"{inner} could not be packed: {error}. Submit again.", code="changed") from None


# --- Words ---


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: int) -> str:
    """Bytes for people, in powers of ten: 80 kB, 9.1 GB."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            text = f"{value:.1f}" if unit not in ("B", "kB") and value < 99.95 else f"{value:.0f}"
            return f"{text} {unit}"
        value /= 1000
    raise AssertionError
