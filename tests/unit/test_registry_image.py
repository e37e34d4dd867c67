"""Config and manifest of a saved image, as whole documents."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from himalia_services.errors import EngineError
from himalia_services.snapshot import image
from himalia_services.snapshot.image import Layer, Manifest

LAYER = Layer(digest="sha256:new", diff_id="sha256:new-diff", size=7)
WHEN = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
BASE_CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "variant": "",
    "created": "2026-01-01T00:00:00Z",
    "author": "somebody",
    "container": "abc",
    "container_config": {"Env": ["TOKEN=x"]},
    "docker_version": "20.10",
    "config": {
        "Env": ["PATH=/bin"],
        "Cmd": ["workspace"],
        "Entrypoint": ["/opt/himalia/bin/himalia-run"],
        "Labels": None,
        "Hostname": "abc",
        "Image": "sha256:x",
        "OnBuild": ["RUN x"],
        "WorkingDir": "/home/jovyan",
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:a"]},
    "history": [{"created_by": "base"}],
}


def base_manifest(media_type: str) -> Manifest:
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": "c", "size": 1, "digest": "sha256:c"},
        "layers": [{"mediaType": "l", "size": 2, "digest": "sha256:l"}],
    }
    return Manifest(media_type, json.dumps(document).encode())


def test_the_config_is_the_bases_and_ours() -> None:
    ours = {
        "created": "2026-11-23T12:00:00.000005Z",
        "created_by": "himalia save",
        "comment": "what a workspace changed",
    }
    assert json.loads(image.config(BASE_CONFIG, LAYER, created=WHEN)) == {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-11-23T12:00:00.000005Z",
        "config": {
            "Env": ["PATH=/bin"],
            "Cmd": ["workspace"],
            "Entrypoint": ["/opt/himalia/bin/himalia-run"],
            "Labels": None,
            "WorkingDir": "/home/jovyan",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:new-diff"]},
        "history": [{"created_by": "base"}, ours],
    }


@pytest.mark.parametrize(
    ("media_type", "config_type", "layer_type", "annotated"),
    [
        (
            image.DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            False,
        ),
        (
            image.OCI_MANIFEST,
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            True,
        ),
    ],
)
def test_the_manifest_has_the_bases_format(media_type: str, config_type: str, layer_type: str, annotated: bool) -> None:
    base = base_manifest(media_type)
    made = image.manifest(base, b"config", LAYER, base_name="himalia/base")
    expected: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "size": 6, "digest": image.digest(b"config")},
        "layers": [
            {"mediaType": "l", "size": 2, "digest": "sha256:l"},
            {"mediaType": layer_type, "size": 7, "digest": "sha256:new"},
        ],
    }
    if annotated:
        expected["annotations"] = {image.BASE_NAME: "himalia/base", image.BASE_DIGEST: base.digest}
    assert json.loads(made.body) == expected
    assert made == image.manifest(base, b"config", LAYER, base_name="himalia/base")


def test_a_format_that_cannot_be_built_on_is_refused() -> None:
    with pytest.raises(EngineError, match="schema1"):
        image.manifest(Manifest("application/schema1", b"{}"), b"", LAYER, base_name="x")
