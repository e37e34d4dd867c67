"""What engines run, and what they report back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NewType

#: The id is the handle: names of containers, volumes and folders derive from it. `job-<12 hex>-a<attempt>` for a job's
#: attempt, `boot-<12 hex>` for the boot check of a version.
WorkloadId = NewType("WorkloadId", str)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of the platform's registry. An engine that has it runs it by id, any other pulls by manifest digest."""

    repository: str  # "env/ada-vision", as the registry knows it, without a host
    digest: str  # of the manifest
    config_digest: str  # of the config: Docker's image id on graph-driver stores


@dataclass(frozen=True, kw_only=True)
class Resources:
    cpu: float  # cores
    memory_bytes: int
    shm_bytes: int = 64 << 20
    pids: int = 4096


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume made visible at a path. `source` is the engine's volume name."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Input:
    """A pack (gzipped tar, names relative to the project folder) and the folder where it appears."""

    pack: Path | None  # None: an empty folder
    path: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """N equal containers of one image. PID 1 is the runner, `verb` its command, `spec` what it finds in its spec file."""

    id: WorkloadId
    image: Image
    verb: Literal["job", "boot-check"]
    spec: Mapping[str, object]
    resources: Resources
    mounts: tuple[Mount, ...] = ()
    input: Input | None = None
    network: Literal["default", "none"] = "default"
    home: Literal["mounted", "tmpfs"] = "mounted"
    count: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


WorkerState = Literal["created", "running", "exited", "absent"]


@dataclass(frozen=True, kw_only=True)
class WorkerObserved:
    """Facts about one container; the core concludes, the engine never does."""

    state: WorkerState
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Observed:
    workers: Mapping[int, WorkerObserved]


@dataclass(frozen=True, kw_only=True)
class WorkspaceRef:
    """A workspace's container as the engine knows it."""

    id: str
    container: str  # its name


@dataclass(frozen=True, kw_only=True)
class ImageTarget:
    """Where a save goes: one layer on `base`, into `repository`, tagged for people with `tag`."""

    repository: str
    tag: str
    base: Image


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a save made. `size_bytes` is the compressed size of the new layer; `left_out` says what the format cannot hold."""

    image: Image
    size_bytes: int
    uncompressed_bytes: int
    entries: int
    layers: int
    left_out: tuple[str, ...] = ()
