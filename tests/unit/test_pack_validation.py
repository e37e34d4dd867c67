"""What a pack may hold, and what a container is given of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace

import pytest

from himalia_services.errors import Invalid, TooLarge
from himalia_services.model import pack


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 0, mode: int = 0o644
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, size, mode
    return info


def packed(*entries: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for each in entries:
            info, data = each if isinstance(each, tuple) else (each, b"")
            if data:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return io.BytesIO(gzip.compress(raw.getvalue(), 1))


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_lists_regular_files_with_their_digest_and_counts_links() -> None:
    listing = pack.inspect(
        packed(
            entry(".", tarfile.DIRTYPE, mode=0o755),
            entry("./src", tarfile.DIRTYPE, mode=0o755),
            (entry("./src/train.py"), b"print()"),
            entry("again.py", tarfile.LNKTYPE, link="src/train.py"),
            entry("data", tarfile.SYMTYPE, link="/run/himalia/live/home/p/data"),
            entry("src/up", tarfile.SYMTYPE, link="../src"),
            entry("empty"),
        )
    )
    assert listing.files == {"src/train.py": sha(b"print()"), "again.py": sha(b"print()"), "empty": sha(b"")}
    assert listing.count == 5
    assert listing.size_bytes == 7


def test_a_pack_of_an_empty_folder_is_a_pack() -> None:
    assert pack.inspect(packed()) == pack.Listing()
    assert pack.inspect(packed(entry("./", tarfile.DIRTYPE))) == pack.Listing()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry("/etc/passwd")], "absolute"),
        ([entry("../x")], "leads out"),
        ([entry("a/../../x")], "leads out"),
        ([entry("a/..", tarfile.DIRTYPE)], "leads out"),
        ([entry("n" * 256)], "not a name"),
        ([entry(".")], "not a name"),
        ([entry("null", tarfile.CHRTYPE)], "device"),
        ([entry("disk", tarfile.BLKTYPE)], "device"),
        ([entry("pipe", tarfile.FIFOTYPE)], "device"),
        ([entry("l", tarfile.SYMTYPE, link="/run/himalia/live/../workload")], "links to"),
        ([entry("l", tarfile.SYMTYPE)], "without a target"),
        ([entry("l", tarfile.SYMTYPE, link="..")], "outside"),
        ([entry("a/l", tarfile.SYMTYPE, link="../../x")], "outside"),
        ([entry("a/l", tarfile.SYMTYPE, link="b/../../../x/a/b")], "outside"),
        ([entry("h", tarfile.LNKTYPE, link="not-there")], "hard link"),
        ([entry("h", tarfile.LNKTYPE, link="/etc/shadow")], "absolute"),
        ([entry("h", tarfile.LNKTYPE, link="../x")], "leads out"),
        ([entry("l", tarfile.SYMTYPE, link="d"), entry("l/x")], "below"),
        ([entry("f"), entry("f/x")], "below"),
        ([entry("f"), entry("f", tarfile.DIRTYPE)], "below"),
        ([entry("f"), entry("./f")], "twice"),
        ([entry("d/f"), entry("d", tarfile.SYMTYPE, link="x")], "twice"),
    ],
)
def test_refuses_what_leads_out_or_is_no_file(entries: list[tarfile.TarInfo], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        pack.inspect(packed(*entries))


def test_refuses_a_file_over_the_limit_by_its_declared_size_without_reading_it() -> None:
    raw = entry("big.bin", size=20_000_001).tobuf()
    with pytest.raises(TooLarge, match=r"big\.bin.*5,000 files of 20 MB each"):
        pack.inspect(io.BytesIO(gzip.compress(raw)))


def test_refuses_more_files_than_the_limit() -> None:
    with pytest.raises(TooLarge, match=r"too many files.*200 MB in 5,000 files"):
        pack.inspect(packed(*(entry(f"f{i}") for i in range(5_001))))


def test_refuses_more_bytes_and_folders_than_the_limit() -> None:
    small = replace(pack.USUAL, total_bytes=1000, folders=3)
    with pytest.raises(TooLarge, match="too large"):
        pack.inspect(packed((entry("a"), b"x" * 600), (entry("b"), b"x" * 600)), small)
    with pytest.raises(TooLarge, match="folders"):
        pack.inspect(packed(entry("a/b/c/d")), small)


def test_an_upload_that_unfolds_without_end_is_refused_while_it_is_read() -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.DIRTYPE, 0
    raw = header.tobuf() * 100
    with pytest.raises(TooLarge, match="A pack holds"):
        pack.inspect(io.BytesIO(gzip.compress(raw)), replace(pack.USUAL, total_bytes=0, files=0, folders=10))


def test_who_asks_to_send_everything_may_send_more() -> None:
    big = packed((entry("big"), bytes(21_000_000)))
    assert pack.inspect(big, pack.WHOLE).size_bytes == 21_000_000


def test_refuses_a_sparse_file_in_both_formats_of_it() -> None:
    gnu = entry("hole", tarfile.GNUTYPE_SPARSE).tobuf(format=tarfile.GNU_FORMAT)
    pax = entry("hole")
    pax.pax_headers = {
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": "1000000000000",
        "GNU.sparse.realsize": "1000000000000",
    }
    for raw in (gnu + bytes(1024), pax.tobuf(format=tarfile.PAX_FORMAT) + bytes(1024)):
        with pytest.raises(Invalid, match="sparse"):
            pack.inspect(io.BytesIO(gzip.compress(raw)))


def test_refuses_a_header_that_would_fill_memory_before_reading_it() -> None:
    header = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1 << 33).tobuf(format=tarfile.GNU_FORMAT)
    with pytest.raises(Invalid, match="far too long"):
        pack.inspect(io.BytesIO(gzip.compress(header)))


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: b"no gzip at all",
        lambda data: data[: len(data) // 2],
        lambda data: gzip.compress(b"no tar" * 200),
        lambda data: gzip.compress(gzip.decompress(data)[:700]),
    ],
    ids=["empty", "not gzip", "cut", "not tar", "tar cut"],
)
def test_broken_bytes_are_refused_with_a_sentence(harm: Callable[[bytes], bytes]) -> None:
    whole = packed((entry("a"), bytes(range(256)) * 40)).getvalue()
    with pytest.raises(Invalid, match="not a gzipped tar"):
        pack.inspect(io.BytesIO(harm(whole)))


def test_a_container_gets_the_folder_owned_by_the_user_without_special_modes() -> None:
    source = packed(
        entry("src", tarfile.DIRTYPE, mode=0o555),
        (entry("src/run", mode=0o4755), b"#!/bin/sh"),
        entry("again", tarfile.LNKTYPE, link="src/run"),
        entry("data", tarfile.SYMTYPE, link="/run/himalia/live/home/data"),
    )
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack.plain(source)))) as tar:
        members = {m.name: m for m in tar}
        content = tar.extractfile("input/src/run")
        assert content is not None
        assert content.read() == b"#!/bin/sh"
    assert list(members) == ["input", "input/src", "input/src/run", "input/again", "input/data"]
    assert {(m.uid, m.gid) for m in members.values()} == {(1000, 1000)}
    assert members["input/src"].mode == 0o755
    assert members["input/src/run"].mode == 0o755
    assert members["input/again"].linkname == "input/src/run"
    assert members["input/data"].linkname == "/run/himalia/live/home/data"


def test_folders_a_pack_does_not_name_are_the_users_too() -> None:
    source = packed(entry("n", tarfile.DIRTYPE, mode=0o700), entry("n/f"), (entry("a/b/f"), b"x"), entry("a/b/g"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack.plain(source)))) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        "input",
        "input/n",
        "input/n/f",
        "input/a",
        "input/a/b",
        "input/a/b/f",
        "input/a/b/g",
    ]
    assert {m.uid for m in members} == {1000}


def test_an_empty_folder_is_still_owned_by_the_user() -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack.plain(None)))) as tar:
        (top,) = tar.getmembers()
    assert (top.name, top.uid, top.gid, top.isdir()) == ("input", 1000, 1000, True)


def test_one_file_can_be_read_out_of_a_pack() -> None:
    source = packed((entry("a"), b"A"), (entry("d/b"), b"B" * 700_000))
    assert b"".join(pack.content(source, "d/b")) == b"B" * 700_000
    source.seek(0)
    assert b"".join(pack.content(source, "nothing")) == b""


def test_headers_that_add_up_in_memory_are_refused() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 1000}) as tar:
        tar.addfile(entry("a"))
    with pytest.raises(Invalid, match="global headers"):
        pack.inspect(io.BytesIO(gzip.compress(raw.getvalue())))


def test_a_header_that_announces_another_a_thousand_times_over_is_refused() -> None:
    header = entry("././@PaxHeader", tarfile.XHDTYPE, size=512).tobuf(tarfile.USTAR_FORMAT)
    block = header + b"12 comment=x".ljust(511, b"\0") + b"\0"
    with pytest.raises(Invalid, match="not a gzipped tar"):
        pack.inspect(io.BytesIO(gzip.compress(block * 5000)))
