"""A layer's bytes: what Python's own tarfile reads of them is the tree they were made from."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from himalia_services.errors import EngineError
from himalia_services.snapshot import changes, layer, sweep
from himalia_services.snapshot.layer import Attributes, Node
from himalia_services.snapshot.pieces import Store

NOTHING = changes.exclusions((), ())


def status(
    mode: int = stat.S_IFREG | 0o644, *, uid: int = 0, gid: int = 0, size: int = 0, mtime: int = 0
) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, gid, size, 0, 0, 0, 0, 0, 0, 0, mtime, 0))


def parse(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data + layer.END), errorlevel=2) as archive:
        return archive.getmembers()


def one(data: bytes) -> tarfile.TarInfo:
    (member,) = parse(data)
    return member


def layer_of(root: Path, exclusions: changes.Exclusions = NOTHING) -> tuple[tarfile.TarFile, list[str]]:
    """The whole tree as a tar, and what was left out."""
    with (root.parent / "layer").open("w+b") as file:
        store = Store(file.fileno())
        descriptor = os.open(root, os.O_RDONLY)
        try:
            records = sweep.sweep(descriptor, exclusions, {}, sweep.LiveSink(store, still=True), 0)
        finally:
            os.close(descriptor)
        store.write(layer.END)
        store.seal()
        file.seek(0)
        data = file.read()
    return tarfile.open(fileobj=io.BytesIO(data), mode="r:gz"), [
        note for each in records.values() for note in each.notes
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "name", ["a", "a" * 100, "a" * 101, "d/" * 200 + "f", "ünï", "line\nbreak", "k=v", " 10 x=y\n"]
)
def test_every_name_is_read_back(name: str) -> None:
    assert one(layer.entry(os.fsencode(name), status(), layer.FILE)).name == name


def test_a_name_that_is_not_text_keeps_its_bytes() -> None:
    raw = b"not \xff\xfe text"
    data = layer.entry(raw, status(), layer.FILE)
    assert b"path=" + raw + b"\n" in data
    assert os.fsencode(one(data).name) == raw


@pytest.mark.parametrize("target", ["t", "t" * 100, "t" * 101, "ü"])
def test_every_link_target_is_read_back(target: str) -> None:
    member = one(layer.entry(b"link", status(stat.S_IFLNK | 0o777), layer.SYMLINK, os.fsencode(target)))
    assert (member.issym(), member.linkname) == (True, target)


@pytest.mark.parametrize("id", [0, 0o7777777, 0o10000000, 2**32 - 2])
def test_every_owner_is_read_back(id: int) -> None:
    member = one(layer.entry(b"f", status(uid=id, gid=id), layer.FILE))
    assert (member.uid, member.gid) == (id, id)


@pytest.mark.parametrize(
    "nanoseconds",
    [0, 1, 10**9, 1_700_000_000_123_456_789, 999_999_999, (0o77777777777 + 1) * 10**9, 1_700_000_000 * 10**9],
)
def test_every_time_is_kept_to_the_nanosecond(nanoseconds: int) -> None:
    data = layer.entry(b"f", status(mtime=nanoseconds), layer.FILE)
    headers = one(data).pax_headers
    seconds, fraction = divmod(nanoseconds, 10**9)
    if fraction:
        assert headers["mtime"] == f"{seconds}.{fraction:09d}"
    assert int(one(data).mtime) == seconds


def test_a_time_before_1970_keeps_its_sign() -> None:
    headers = one(layer.entry(b"f", status(mtime=-1_500_000_000), layer.FILE)).pax_headers
    assert headers["mtime"] == "-1.500000000"


def test_a_size_from_eight_gibibytes_is_kept() -> None:
    data = layer.entry(b"f", status(size=8 << 30), layer.FILE)
    member = tarfile.TarInfo.frombuf(data[-512:], "utf-8", "strict")
    assert member.size == 0
    assert b" size=8589934592\n" in data


def test_no_extended_header_where_ustar_reaches() -> None:
    assert len(layer.entry(b"f", status(mtime=10**9), layer.FILE)) == layer.BLOCK


def test_attributes_are_kept_as_bytes() -> None:
    kept = Attributes(((b"user.any", b"\x00\xff\n=1"), (b"security.capability", b"\x01")))
    data = layer.entry(b"f", status(), layer.FILE, kept=kept)
    assert b"SCHILY.xattr.user.any=\x00\xff\n=1\n" in data
    assert b"SCHILY.xattr.security.capability=\x01\n" in data


def test_the_length_of_a_record_counts_its_own_digits() -> None:
    for size in (*range(80, 120), *range(970, 1010)):
        member = one(layer.entry(b"f", status(), layer.FILE, kept=Attributes(((b"user.a", b"x" * size),))))
        assert member.pax_headers["SCHILY.xattr.user.a"] == "x" * size


def test_a_whiteout_is_an_empty_file_of_the_marked_name() -> None:
    member = one(layer.whiteout(b"etc/issue"))
    assert (member.name, member.size, member.mode, member.mtime, member.uid) == ("etc/.wh.issue", 0, 0o644, 0, 0)
    assert one(layer.whiteout(b"top")).name == ".wh.top"


def test_an_opaque_folder_says_so_directly_after_its_entry() -> None:
    names = [
        member.name
        for member in parse(
            layer.entry(b"a/b", status(stat.S_IFDIR | 0o755), layer.FOLDER, kept=Attributes(opaque=True))
        )
    ]
    assert names == ["a/b", "a/b/.wh..wh..opq"]


def test_a_tree_is_told_parents_first_and_names_sorted(root: Path) -> None:
    for name in ("b", "a/c", "a.txt", "a/b/d"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    archive, _ = layer_of(root)
    assert archive.getnames() == ["a", "a/b", "a/b/d", "a/c", "a.txt", "b"]
    assert [archive.extractfile(member).read() for member in archive if member.isreg()] == [
        b"a/b/d",
        b"a/c",
        b"a.txt",
        b"b",
    ]  # type: ignore[union-attr]


def test_the_same_tree_makes_the_same_bytes(root: Path) -> None:
    for number in range(200):
        (root / f"file{number}").write_bytes(os.urandom(number * 37))
    first = layer_of(root)[0].fileobj.read()  # type: ignore[union-attr]
    second = layer_of(root)[0].fileobj.read()  # type: ignore[union-attr]
    assert first == second


def test_content_larger_than_a_piece_is_whole(root: Path) -> None:
    content = os.urandom(3 << 20) + b"tail"
    (root / "large").write_bytes(content)
    (root / "next").write_text("n")
    archive, _ = layer_of(root)
    assert archive.extractfile("large").read() == content  # type: ignore[union-attr]
    assert archive.extractfile("next").read() == b"n"  # type: ignore[union-attr]


def test_a_sparse_file_is_written_in_full(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.seek(2_000_000)
        file.write(b"end")
    archive, _ = layer_of(root)
    assert archive.extractfile("sparse").read() == bytes(2_000_000) + b"end"  # type: ignore[union-attr]


def test_the_first_name_of_a_hard_link_has_the_data(root: Path) -> None:
    (root / "b").write_text("data")
    os.link(root / "b", root / "a")
    os.link(root / "b", root / "c")
    archive, _ = layer_of(root)
    assert [(member.name, member.islnk(), member.linkname) for member in archive] == [
        ("a", False, ""),
        ("b", True, "a"),
        ("c", True, "a"),
    ]
    assert archive.extractfile("a").read() == b"data"  # type: ignore[union-attr]


def test_a_hard_link_never_points_at_a_name_that_is_left_out(root: Path) -> None:
    (root / ".wh.first").write_text("data")
    os.link(root / ".wh.first", root / "second")
    archive, notes = layer_of(root)
    assert [(member.name, member.isreg()) for member in archive] == [("second", True)]
    assert notes == ["/.wh.first: its name means a deleted file in an image"]


def test_what_a_layer_cannot_hold_is_reported(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        here = os.getcwd()
        os.chdir(root)
        own.bind("socket")
        os.chdir(here)
    (root / ".wh.folder").mkdir()
    (root / ".wh.folder" / "below").write_text("x")
    os.mkfifo(root / "fifo", 0o640)
    archive, notes = layer_of(root)
    assert [(member.name, member.isfifo()) for member in archive] == [("fifo", True)]
    assert notes == ["/.wh.folder: its name means a deleted file in an image", "/socket: a socket"]


@pytest.mark.xattr
def test_an_attribute_that_a_record_cannot_name_is_reported(root: Path) -> None:
    (root / "f").write_text("x")
    os.setxattr(root / "f", "user.a=b", b"1")
    os.setxattr(root / "f", "user.fine", b"2")
    archive, notes = layer_of(root)
    assert archive.getmember("f").pax_headers["SCHILY.xattr.user.fine"] == "2"
    assert notes == ["/f: its attribute 'user.a=b', since a layer cannot hold that name"]


def test_exclusions_hide_paths_with_what_is_below(root: Path) -> None:
    for name in (
        "run/a",
        "tmp/himalia-1/a",
        "tmp/other",
        "home/jovyan/a",
        "etc/hosts",
        "etc/hostname",
        "running",
        "a/run/b",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "etc/hosts" else "x")
    (root / ".dockerenv").touch()
    exclusions = changes.exclusions(changes.EXCLUDED, [b"home/jovyan", b"etc/hosts"])
    archive, _ = layer_of(root, exclusions)
    assert archive.getnames() == ["a", "a/run", "a/run/b", "etc", "etc/hostname", "home", "running", "tmp", "tmp/other"]


def test_a_folder_that_becomes_a_link_is_never_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    (root / "folder").mkdir()
    descriptor = os.open(root, os.O_RDONLY)
    try:
        walking = layer.walk(descriptor, NOTHING)
        (root / "a").write_text("first")
        walking = layer.walk(descriptor, NOTHING)
        assert next(walking).path == b"a"
        (root / "folder").rmdir()
        (root / "folder").symlink_to(outside)
        assert list(walking) == []
    finally:
        os.close(descriptor)


def test_a_file_that_becomes_a_link_is_never_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    (root / "f").write_text("mine")
    descriptor = os.open(root, os.O_RDONLY)
    with (tmp_path / "layer").open("w+b") as file:
        store = Store(file.fileno())
        try:
            (node,) = [Node(*each) for each in layer.walk(descriptor, NOTHING)]
            (root / "f").unlink()
            (root / "f").symlink_to(tmp_path / "secret")
            with pytest.raises(OSError, match="symbolic links") as raised:
                sweep._read_file(node, None, sweep.LiveSink(store, still=True), 0)
        finally:
            store.close()
            os.close(descriptor)
    assert layer.vanished(raised.value)


@pytest.mark.root  # attributes named trusted.* take root
@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_what_only_the_merged_view_tells_is_refused(root: Path, name: str) -> None:
    (root / "f").mkdir()
    os.setxattr(root / "f", f"trusted.overlay.{name}", b"/x")
    with pytest.raises(EngineError, match=r"/f is kept by overlayfs"):
        layer_of(root)


@pytest.mark.root  # attributes named trusted.* and devices take root
def test_overlayfs_marks_become_those_of_a_layer(root: Path) -> None:
    (root / "folder").mkdir()
    os.setxattr(root / "folder", "trusted.overlay.opaque", b"y")
    (root / "folder" / "a").write_text("x")
    os.mknod(root / "gone", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.link(root / "gone", root / "also-gone")
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    archive, notes = layer_of(root)
    assert archive.getnames() == [".wh.also-gone", "folder", "folder/.wh..wh..opq", "folder/a", ".wh.gone"]
    assert all(not member.pax_headers.keys() - {"mtime"} for member in archive)
    assert notes == ["/device: a device"]
