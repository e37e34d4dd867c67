"""What the engine is handed: one new layer, in the form its image store takes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from himalia_services.engines.docker import save
from himalia_services.snapshot import image
from himalia_services.snapshot.image import Manifest
from himalia_services.snapshot.registry import Registry
from himalia_services.snapshot.save import Snapshot

TAR = b"a layer" * 300_001


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Snapshot]:
    data = gzip.compress(TAR)
    document = {
        "config": {"digest": image.digest(b"{}")},
        "layers": [{"digest": "sha256:below"}, {"digest": image.digest(data)}],
    }
    with (tmp_path / "layer").open("w+b") as file:
        file.write(data)
        file.flush()
        yield Snapshot(
            name="env/ada:3",
            manifest=Manifest(image.OCI_MANIFEST, json.dumps(document).encode()),
            config=b"{}",
            layer=image.Layer(digest=image.digest(data), diff_id=image.digest(TAR), size=len(data)),
            uncompressed=len(TAR),
            descriptor=file.fileno(),
        )


async def contents(archive: AsyncIterator[bytes]) -> dict[str, bytes]:
    data = b"".join([part async for part in archive])
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


async def test_a_graph_driver_gets_the_tar_and_places_for_the_layers_it_has(made: Snapshot) -> None:
    found = await contents(save._docker_archive(made))
    config = image.digest(b"{}").removeprefix("sha256:") + ".json"
    assert json.loads(found.pop("manifest.json")) == [
        {"Config": config, "RepoTags": None, "Layers": ["0/layer.tar", "1/layer.tar"]}
    ]
    assert found == {config: b"{}", "1/layer.tar": TAR}


async def test_containerds_store_gets_the_very_blobs_under_a_name(made: Snapshot) -> None:
    async with Registry("http://127.0.0.1:8050") as registry:
        found = await contents(save._oci_archive(registry, made))
    index = json.loads(found.pop("index.json"))
    (entry,) = index["manifests"]
    assert entry["digest"] == made.manifest.digest
    assert entry["annotations"] == {"io.containerd.image.name": "127.0.0.1:8050/env/ada:3"}
    assert json.loads(found.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert {f"sha256:{name.rpartition('/')[2]}": image.digest(data) for name, data in found.items()} == {
        digest: digest for digest in (made.manifest.digest, image.digest(b"{}"), made.layer.digest)
    }


def test_containerd_tells_where_a_stopped_containers_changes_are() -> None:
    told = (
        "mount -t overlay overlay /nowhere -o index=off,workdir=/c/7/work,upperdir=/c/7/fs,lowerdir=/c/6/fs:/c/1/fs\n"
    )
    assert save._upper_of(told) == "/c/7/fs"
    assert save._upper_of("") == ""
