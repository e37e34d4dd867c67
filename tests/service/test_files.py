"""Files by digest: whole or not at all. And a job's outputs, taken out of a tar that a program made."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from himalia_services.errors import EngineUnavailable, NotFound, TooLarge
from himalia_services.reconcile import outputs
from himalia_services.store.files import Files
from service.jobhouse import packed


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "files")


def temporary(files: Files) -> list[Path]:
    return list((files.root / "tmp").iterdir())


async def test_what_comes_in_pieces_is_found_by_the_digest_of_the_whole(files: Files) -> None:
    assert await files.put_stream(stream(b"ab", b"", b"c")) == (sha(b"abc"), 3)
    with files.open(sha(b"abc")) as file:
        assert file.read() == b"abc"
    assert [piece async for piece in files.read(sha(b"abc"))] == [b"abc"]
    assert list(files.digests()) == [sha(b"abc")]
    assert temporary(files) == []


async def test_what_breaks_off_or_grows_too_large_leaves_nothing(files: Files) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await files.put_stream(breaks())
    with pytest.raises(TooLarge, match="at most"):
        await files.put_stream(stream(b"abc", b"d"), limit=3, sentence="This holds at most three bytes.")
    assert list(files.digests()) == []
    assert temporary(files) == []


async def test_delete_of_what_is_not_there_is_nothing(files: Files) -> None:
    digest, _ = await files.put_stream(stream(b"x"))
    files.delete(digest)
    files.delete(digest)
    assert not files.has(digest)
    with pytest.raises(NotFound):
        files.open(digest)


@pytest.mark.parametrize("name", ["", "sha256:", "sha256:../../x", "sha256:" + "g" * 64, "/etc/passwd"])
def test_what_is_no_digest_is_no_path(files: Files, name: str) -> None:
    with pytest.raises(NotFound):
        files.path(name)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_what_is_no_id_is_no_log(files: Files, name: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        files.log_path(name, 1)


async def test_a_log_is_replaced_whole_read_from_any_byte_and_deleted(files: Files) -> None:
    assert await files.put_log("job-1", 1, 0, stream(b"half")) == 4
    assert await files.put_log("job-1", 1, 0, stream(b"all ", b"of it")) == 9
    assert b"".join([data async for data in files.read_log("job-1", 1, offset=4)]) == b"of it"
    assert [data async for data in files.read_log("job-1", 2)] == []
    assert list(files.logged()) == ["job-1"]
    files.delete_logs("job-1")
    files.delete_logs("job-1")
    assert [data async for data in files.read_log("job-1", 1)] == []


def test_what_a_crash_left_half_written_goes_after_a_day(files: Files) -> None:
    with files.stage() as staged:
        now = staged.path.stat().st_mtime
        files.tidy(now + 3600)
        assert staged.path.exists()
        files.tidy(now + 25 * 3600)
        assert not staged.path.exists()


# Outputs


def tar(*entries: tuple[str, bytes | tarfile.TarInfo]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, what in entries:
            info = tarfile.TarInfo(name) if isinstance(what, bytes) else what
            info.name = name
            data = what if isinstance(what, bytes) else b""
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def kind(of: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = of, link
    return info


async def collect(
    files: Files, data: bytes, before: dict[str, bytes] | None = None, input: Path | None = None
) -> dict[str, tuple[str, str]]:
    known = {path: sha(content) for path, content in (before or {}).items()}
    pieces = [data[start : start + 700] for start in range(0, len(data), 700)]
    collected = await outputs.collect(files, stream(*pieces), known, input)
    return {file.path: (file.change, file.digest) for file in collected.made}


async def test_new_and_changed_files_are_kept_and_unchanged_ones_are_not(files: Files) -> None:
    data = tar(("input", kind(tarfile.DIRTYPE)), ("input/a", b"a"), ("input/b", b"other"), ("input/d/new", b"new"))
    assert await collect(files, data, {"a": b"a", "b": b"b", "gone": b"x"}) == {
        "b": ("changed", sha(b"other")),
        "d/new": ("new", sha(b"new")),
    }
    assert sorted(files.digests()) == sorted([sha(b"other"), sha(b"new")])


async def test_links_devices_caches_and_names_that_lead_out_are_left_behind(files: Files) -> None:
    data = tar(
        ("input/link", kind(tarfile.SYMTYPE, "/etc/shadow")),
        ("input/pipe", kind(tarfile.FIFOTYPE)),
        ("input/null", kind(tarfile.CHRTYPE)),
        ("input/hard", kind(tarfile.LNKTYPE, "/etc/shadow")),
        ("input/__pycache__/x.pyc", b"x"),
        ("input/n/.ipynb_checkpoints/n.ipynb", b"x"),
        ("input/../../x", b"x"),
        ("/input/x", b"x"),
        ("input/kept", b"kept"),
    )
    assert await collect(files, data) == {"kept": ("new", sha(b"kept"))}
    assert list(files.digests()) == [sha(b"kept")]


async def test_another_name_of_a_file_is_a_file_also_when_the_file_itself_did_not_change(
    files: Files, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    pack.write_bytes(packed({"old": b"old", "other": b"2"}))
    data = tar(
        ("input/new", b"new"),
        ("input/new2", kind(tarfile.LNKTYPE, "input/new")),
        ("input/old", b"old"),
        ("input/old2", kind(tarfile.LNKTYPE, "input/old")),
    )
    found = await collect(files, data, {"old": b"old"}, pack)
    assert found == {"new": ("new", sha(b"new")), "new2": ("new", sha(b"new")), "old2": ("new", sha(b"old"))}
    assert all(files.has(digest) for _, digest in found.values())


async def test_a_name_that_is_no_text_is_made_one(files: Files) -> None:
    name = b"input/caf\xe9.txt".decode("utf-8", "surrogateescape")
    assert await collect(files, tar((name, b"x"))) == {"caf�.txt": ("new", sha(b"x"))}


@pytest.mark.parametrize("length", [100, 600, 1500])
async def test_a_tar_that_ends_too_early_is_asked_for_again(files: Files, length: int) -> None:
    with pytest.raises(EngineUnavailable, match="whole"):
        await collect(files, tar(("input/a", b"a" * 5000))[:length])
    assert temporary(files) == []


async def test_an_engine_that_stops_answering_in_the_middle_is_its_own_error(files: Files) -> None:
    whole = tar(("input/a", b"a" * 5000))

    async def breaks() -> AsyncIterator[bytes]:
        yield whole[:2000]
        raise EngineUnavailable("Docker stopped answering.")

    with pytest.raises(EngineUnavailable, match="stopped answering"):
        await outputs.collect(files, breaks(), {}, None)
    assert temporary(files) == []


async def test_a_job_that_leaves_too_much_behind_keeps_what_fits_and_counts_the_rest(files: Files) -> None:
    data = tar(("input/a", b"a" * 10), ("input/b", b"b" * 10), ("input/c", b"c"), ("input/d", b"d"))
    few = await outputs.collect(files, stream(data), {}, None, outputs.Limits(files=2))
    assert ([file.path for file in few.made], few.left_out) == (["a", "b"], 2)
    small = await outputs.collect(files, stream(data), {}, None, outputs.Limits(total_bytes=12))
    assert ([file.path for file in small.made], small.left_out) == (["a", "c", "d"], 1)
