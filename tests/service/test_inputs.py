"""Packs: uploaded once, checked before they count, kept for who sent them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from himalia_services.parts import Parts
from himalia_services.store import tables as t
from service.assertions import assert_problem
from service.fakehub import FakeHub
from service.jobhouse import JobHouse, digest, opened, packed


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[JobHouse]:
    async with opened(parts, hub) as house:
        yield house


def leftovers(house: JobHouse) -> list[str]:
    return [path.name for path in (house.parts.files.root / "tmp").iterdir()]


async def test_a_pack_is_there_after_its_upload_and_was_not_before(house: JobHouse) -> None:
    pack = packed({"a.py": b"print()", "b/c.txt": b"c"})
    assert (await house.send("ada", "HEAD", f"/inputs/{digest(pack)}")).status_code == 404
    answer = await house.upload("ada", pack)
    assert answer.status_code == 200
    assert answer.json() == {"digest": digest(pack), "size_bytes": len(pack), "files": 2}
    assert (await house.send("ada", "HEAD", f"/inputs/{digest(pack)}")).status_code == 200
    assert (await house.upload("ada", pack)).json() == answer.json()
    assert len(await house.rows(t.Input)) == 1


async def test_that_somebody_else_has_the_same_pack_is_not_said(house: JobHouse) -> None:
    pack = packed({"a.py": b"print()"})
    await house.upload("ada", pack)
    assert (await house.send("ben", "HEAD", f"/inputs/{digest(pack)}")).status_code == 404
    assert (await house.upload("ben", pack)).status_code == 200
    assert len(await house.rows(t.Input)) == 2
    assert list(house.parts.files.digests()) == [digest(pack)]


async def test_bytes_that_are_not_what_the_address_says_are_refused_and_gone(house: JobHouse) -> None:
    pack = packed({"a.py": b"print()"})
    assert_problem(await house.upload("ada", pack, of=f"sha256:{'0' * 64}"), 422, "digest_mismatch")
    assert list(house.parts.files.digests()) == []
    assert leftovers(house) == []


@pytest.mark.parametrize("address", ["sha256:abc", "md5:0", "..%2f..%2fsecrets", f"sha256:{'A' * 64}"])
async def test_an_address_that_is_no_digest_is_refused(house: JobHouse, address: str) -> None:
    assert (await house.upload("ada", b"x", of=address)).status_code in (404, 422)


async def test_a_pack_that_leads_out_of_its_folder_is_refused_and_gone(house: JobHouse) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/cron.d/x"))
    pack = gzip.compress(raw.getvalue())
    problem = assert_problem(await house.upload("ada", pack), 422, "invalid")
    assert "leads out" in str(problem["detail"])
    assert list(house.parts.files.digests()) == []
    assert await house.rows(t.Input) == []
    assert leftovers(house) == []


async def test_what_is_no_gzipped_tar_is_refused(house: JobHouse) -> None:
    assert_problem(await house.upload("ada", b"hello"), 422, "invalid")


async def test_a_file_over_the_limit_is_refused_unless_everything_was_asked_for(house: JobHouse) -> None:
    pack = packed({"big.bin": bytes(20_000_001)})
    problem = assert_problem(await house.upload("ada", pack), 413, "too_large")
    assert "20 MB each" in str(problem["detail"])
    assert (await house.upload("ada", pack, whole="true")).status_code == 200


async def test_an_upload_that_breaks_off_leaves_nothing(house: JobHouse) -> None:
    pack = packed({"a.py": b"print()" * 1000})
    assert_problem(await house.upload("ada", pack[:-20], of=digest(pack)), 422, "digest_mismatch")
    assert leftovers(house) == []


async def test_a_pack_whose_bytes_went_is_asked_for_again(house: JobHouse) -> None:
    pack = packed({"a.py": b"print()"})
    await house.upload("ada", pack)
    house.parts.files.delete(digest(pack))
    assert (await house.send("ada", "HEAD", f"/inputs/{digest(pack)}")).status_code == 404
    assert (await house.upload("ada", pack)).status_code == 200
    assert house.parts.files.has(digest(pack))
