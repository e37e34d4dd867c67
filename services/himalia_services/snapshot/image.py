"""The config and the manifest of a saved image: the base's and ours, nothing of the container's. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from himalia_services.errors import EngineError

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
INDEXES = (DOCKER_LIST, OCI_INDEX)

_LAYER = {
    DOCKER_MANIFEST: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    OCI_MANIFEST: "application/vnd.oci.image.layer.v1.tar+gzip",
}
_CONFIG = {
    DOCKER_MANIFEST: "application/vnd.docker.container.image.v1+json",
    OCI_MANIFEST: "application/vnd.oci.image.config.v1+json",
}

_PLATFORM = ("architecture", "os", "variant", "os.version")
_KEPT = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Shell",
)

BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A manifest as the registry has it: the digest is that of these very bytes."""

    media_type: str
    body: bytes

    @property
    def digest(self) -> str:
        return digest(self.body)

    @property
    def document(self) -> Document:
        return json.loads(self.body)

    @property
    def layers(self) -> Sequence[Document]:
        return self.document.get("layers", ())

    @property
    def config_digest(self) -> str:
        return self.document["config"]["digest"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer's two digests and the size of its compressed form."""

    digest: str
    diff_id: str
    size: int


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(base: Document, layer: Layer, *, created: datetime) -> bytes:
    """The image config: what the base says about running it, its history and layers, and the one more."""
    when = created.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    rootfs = base.get("rootfs") or {}
    document: dict[str, Any] = {key: base[key] for key in _PLATFORM if base.get(key)}
    document["created"] = when
    document["config"] = {key: value for key, value in (base.get("config") or {}).items() if key in _KEPT}
    document["rootfs"] = {"type": "layers", "diff_ids": [*(rootfs.get("diff_ids") or ()), layer.diff_id]}
    ours = {"created": when, "created_by": "himalia save", "comment": "what a workspace changed"}
    document["history"] = [*(base.get("history") or ()), ours]
    return _bytes(document)


def manifest(base: Manifest, config: bytes, layer: Layer, *, base_name: str) -> Manifest:
    """In the base's format, so that whatever pulls the base pulls this."""
    media_type = base.media_type
    if media_type not in _LAYER:
        raise EngineError(
            f"The base image's manifest has the format {media_type}, which cannot be built on. Push it again."
        )
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": _CONFIG[media_type], "size": len(config), "digest": digest(config)},
        "layers": [
            *base.layers,
            {"mediaType": _LAYER[media_type], "size": layer.size, "digest": layer.digest},
        ],
    }
    if media_type == OCI_MANIFEST:
        document["annotations"] = {BASE_NAME: base_name, BASE_DIGEST: base.digest}
    return Manifest(media_type, _bytes(document))


def _bytes(document: Document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
