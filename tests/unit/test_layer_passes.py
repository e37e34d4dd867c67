"""Passes over a tree that changes: the layer is the tree as it stood still, whatever happened before."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from himalia_services.errors import EngineError
from himalia_services.snapshot import capture, changes, pieces
from himalia_services.snapshot.capture import Captured, Spool
from himalia_services.snapshot.pieces import Store


class Meanwhile:
    """Stands still at once; before each standstill the tree changes as the test says."""

    def __init__(self, *moves: Callable[[], object]) -> None:
        self.moves = list(moves)
        self.times = 0

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.times += 1
        if self.moves:
            self.moves.pop(0)()
        yield


class Reading:
    """A tree, and its layer read by the passes."""

    def __init__(self, tmp: Path) -> None:
        self.root = tmp / "root"
        self.root.mkdir()
        self.files = [(tmp / name).open("w+b") for name in ("live", "final", "spill")]
        self.said: list[Mapping[str, object]] = []

    def write(self, name: str, content: bytes | str = b"x") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def read(self, switch: Meanwhile | None) -> Captured:
        for file in self.files:
            file.truncate(0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
        self.said.clear()
        spool = Spool(*(file.fileno() for file in self.files))
        root = os.open(self.root, os.O_RDONLY)
        try:
            return capture.read(root, changes.exclusions((), ()), spool, self.said.append, switch)
        finally:
            os.close(root)

    def compressed(self, captured: Captured) -> bytes:
        file = self.files[0 if captured.file == capture.LIVE else 1]
        file.seek(0)
        return file.read()

    def tar(self, captured: Captured) -> bytes:
        """Checked against every number that was reported."""
        data = self.compressed(captured)
        tar = gzip.decompress(data)
        assert captured.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert captured.diff_id == f"sha256:{hashlib.sha256(tar).hexdigest()}"
        assert (captured.size, captured.uncompressed) == (len(data), len(tar))
        assert self.said[-1] == {"spooled": len(data)}
        return tar

    def contents(self, captured: Captured) -> dict[str, bytes | None]:
        with tarfile.open(fileobj=io.BytesIO(self.tar(captured))) as archive:
            return {
                member.name: file.read() if (file := archive.extractfile(member) if member.isreg() else None) else None
                for member in archive
            }

    def close(self) -> None:
        for file in self.files:
            file.close()


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    own = Reading(tmp_path)
    yield own
    own.close()


def settle(root: Path) -> None:
    """Wait out the coarse clock: what is written from now on has a later ctime than what is there."""
    newest = max((path.lstat().st_ctime_ns for path in root.rglob("*")), default=0)
    deadline = time.monotonic() + 5
    while time.time_ns() < newest + 25_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_tree_that_does_not_change_is_sent_as_it_is_read(reading: Reading) -> None:
    reading.write("a", "1")
    reading.write("b/c", os.urandom(2 << 20))
    settle(reading.root)
    captured = reading.read(Meanwhile())
    assert (captured.file, captured.entries, captured.passes) == (capture.LIVE, 3, 1)
    assert {"again": True} not in reading.said
    assert reading.contents(captured)["a"] == b"1"


def test_nothing_at_all_is_a_layer_too(reading: Reading) -> None:
    captured = reading.read(None)
    assert (captured.entries, reading.contents(captured)) == (0, {})


def test_what_changed_before_the_standstill_is_in_the_one_layer(reading: Reading) -> None:
    for number in range(300):
        reading.write(f"folder{number % 7}/file{number}", os.urandom(20_000))
    reading.write("large", os.urandom(3 << 20))
    settle(reading.root)

    def move() -> None:
        reading.write("folder0/file0", "changed")
        reading.write("folder9/new", "new")
        reading.write("aaa-first", "first")
        (reading.root / "folder1" / "file1").unlink()
        (reading.root / "folder2" / "file2").chmod(0o600)
        with (reading.root / "large").open("ab") as file:
            file.write(b"more")
        os.link(reading.root / "folder3" / "file3", reading.root / "folder3" / "a-name-before")

    captured = reading.read(Meanwhile(move))
    assert captured.file == capture.FINAL
    moved = reading.tar(captured)
    again = reading.read(None)
    assert reading.tar(again) == moved
    assert captured.diff_id == again.diff_id


def test_random_changes_leave_the_bytes_of_the_tree_as_it_stood_still(reading: Reading) -> None:
    draw = random.Random(7)
    for number in range(120):
        reading.write(f"d{number % 5}/f{number}", draw.randbytes(draw.choice([0, 10, 5000, 400_000])))

    def move() -> None:
        for _ in range(25):
            files = sorted(path for path in reading.root.rglob("*") if path.is_file())
            path = draw.choice(files)
            kind = draw.randrange(5)
            if kind == 0:
                path.unlink()
            elif kind == 1:
                path.write_bytes(draw.randbytes(draw.choice([0, 9, 300_000])))
            elif kind == 2:
                os.rename(path, path.with_name(f"r{draw.randrange(10**6)}"))
            elif kind == 3:
                os.link(path, path.with_name(f"l{draw.randrange(10**6)}"))
            else:
                reading.write(f"n{draw.randrange(9)}/x{draw.randrange(10**6)}", draw.randbytes(100))

    for _ in range(5):
        settle(reading.root)
        moved = reading.tar(reading.read(Meanwhile(move)))
        assert moved == reading.tar(reading.read(None))


def test_too_much_change_is_read_while_it_lives_first(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_FROZEN_BYTES", 10_000)
    reading.write("log", b"1" * 100)
    settle(reading.root)
    grow = lambda: (reading.write("log", b"2" * 50_000), settle(reading.root))  # noqa: E731
    switch = Meanwhile(grow, lambda: reading.write("small", b"3"))
    captured = reading.read(switch)
    assert (switch.times, captured.passes) == (2, 2)
    assert reading.contents(captured) == {"log": b"2" * 50_000, "small": b"3"}


def test_a_file_that_never_rests_is_read_standing_still_in_the_end(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_FROZEN_BYTES", 10_000)
    reading.write("log", b"0" * 50_000)
    moves = [lambda digit=digit: reading.write("log", str(digit) * 50_000) for digit in range(1, 9)]
    switch = Meanwhile(*moves)
    captured = reading.read(switch)
    assert captured.passes == capture._PASSES
    assert reading.contents(captured)["log"] == str(switch.times).encode() * 50_000


def test_a_standstill_that_was_lost_is_no_layer(reading: Reading) -> None:
    class Lost(Meanwhile):
        @contextlib.contextmanager
        def frozen(self) -> Iterator[None]:
            yield
            raise EngineError("It moved.")

    reading.write("a")
    with pytest.raises(EngineError, match="moved"):
        reading.read(Lost())


def test_a_full_disk_is_an_error_of_the_pass(reading: Reading) -> None:
    reading.write("a", os.urandom(5 << 20))
    with open("/dev/full", "r+b", buffering=0) as full:
        spool = Spool(full.fileno(), full.fileno(), full.fileno())
        root = os.open(reading.root, os.O_RDONLY)
        try:
            with pytest.raises(OSError, match="No space left"):
                capture.read(root, changes.exclusions((), ()), spool, reading.said.append, None)
        finally:
            os.close(root)


def test_any_spans_of_a_store_are_read_back(tmp_path: Path) -> None:
    draw = random.Random(3)
    content = b"".join(draw.randbytes(500_000) + bytes(500_000) for _ in range(5))
    with (tmp_path / "store").open("w+b") as file:
        store = Store(file.fileno())
        at = 0
        while at < len(content):
            part = draw.choice([1, 700, 300_000, 2 << 20])
            store.write(content[at : at + part])
            at += part
        store.settle()
        for _ in range(20):
            spans = [tuple(sorted((draw.randrange(len(content)), draw.randrange(len(content))))) for _ in range(4)]
            found = b"".join(bytes(raw) for raw, _ in store.read(spans))  # type: ignore[arg-type]
            assert found == b"".join(content[start:end] for start, end in spans)
        sealed = store.seal()
        file.seek(0)
        assert gzip.decompress(file.read()) == content
    assert sealed.diff_id == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_without_isal_the_layer_is_as_good(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    reading.write("a", b"content" * 300_000)
    settle(reading.root)
    fast = reading.tar(reading.read(None))
    monkeypatch.setattr(pieces, "_zlib", zlib)
    assert reading.tar(reading.read(Meanwhile(lambda: reading.write("b")))) != fast
    (reading.root / "b").unlink()
    captured = reading.read(None)
    with tarfile.open(fileobj=io.BytesIO(reading.tar(captured))) as archive:
        assert archive.extractfile("a").read() == b"content" * 300_000  # type: ignore[union-attr]
