"""A workload as Docker wants it: container bodies, names and labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from himalia_services.model.pack import FOLDER
from himalia_services.model.workload import Mount, Workload, WorkloadId

RUNNER = "/opt/himalia/bin/himalia-run"
INPUT = f"/run/himalia/{FOLDER}"
CPU_PERIOD = 100_000
#: What no job needs: raw sockets would let one forge packets on the shared network, the others make devices and audit records.
CAP_DROP = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SYS_CHROOT"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where this installation's workloads run: what its names start with, its network, and the folder of run folders."""

    instance: str
    prefix: str  # "himalia-1a2b3c4d"
    network: str
    runs: Path
    #: Where a save spools its layer: as large as what is saved, so on the installation's disk. None: the system's folder.
    spool: Path | None = None


def name(site: Site, id: WorkloadId, worker: int) -> str:
    """Of a worker's container and of its volume."""
    return f"{site.prefix}-{id}-r{worker}"


def folder(site: Site, id: WorkloadId, worker: int) -> Path:
    return site.runs / id / str(worker)


def labels(site: Site, id: WorkloadId, worker: int) -> dict[str, str]:
    return {
        "himalia.instance": site.instance,
        "himalia.kind": "workload",
        "himalia.workload": id,
        "himalia.worker": str(worker),
    }


def container(site: Site, workload: Workload, worker: int, image: str) -> dict[str, Any]:
    """The body of `POST /containers/create` for one worker; `image` is what this engine calls the image."""
    return {
        "Image": image,
        "Entrypoint": [RUNNER],
        "Cmd": [workload.verb],
        "Env": [],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": workload.id if workload.count == 1 else f"{workload.id}-r{worker}",
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**workload.labels, **labels(site, workload.id, worker)},
        "HostConfig": _host(site, workload, worker),
    }


def _host(site: Site, workload: Workload, worker: int) -> dict[str, Any]:
    resources = workload.resources
    return {
        "Mounts": _mounts(site, workload, worker),
        "Tmpfs": {"/home/jovyan": "rw,exec,nosuid,nodev,size=1g,mode=0755,uid=1000,gid=1000"}
        if workload.home == "tmpfs"
        else {},
        "NetworkMode": "none" if workload.network == "none" else site.network,
        "Memory": resources.memory_bytes,
        "MemorySwap": resources.memory_bytes,
        "CpuPeriod": CPU_PERIOD,
        "CpuQuota": max(int(resources.cpu * CPU_PERIOD), 1000),
        "PidsLimit": resources.pids,
        "ShmSize": resources.shm_bytes,
        # The runner writes the log; what it says itself is little.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
        # A restart the row does not know is an attempt run twice.
        "RestartPolicy": {"Name": "no"},
        "CapDrop": CAP_DROP,
        "Init": False,
        "Privileged": False,
    }


def _mounts(site: Site, workload: Workload, worker: int) -> list[dict[str, Any]]:
    run = folder(site, workload.id, worker)
    mounts = [{"Type": "bind", "Source": str(run), "Target": "/run/himalia/workload", "ReadOnly": False}]
    mounts += [_volume(mount) for mount in workload.mounts]
    if workload.input is not None:
        own = labels(site, workload.id, worker)
        volume = name(site, workload.id, worker)
        mounts += [_volume(Mount(source=volume, target=path), own) for path in (workload.input.path, INPUT)]
    return mounts


def _volume(mount: Mount, own: Mapping[str, str] | None = None) -> dict[str, Any]:
    # Without NoCopy Docker fills an empty volume with what the image has at that path.
    options: dict[str, Any] = {"NoCopy": True}
    if own is not None:
        options["Labels"] = dict(own)
    return {
        "Type": "volume",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "VolumeOptions": options,
    }


def preparation(volume: str, image: str, own: Mapping[str, str]) -> dict[str, Any]:
    """A container that never starts: through it a new volume is given its owner. Made by Docker in one step with the volume."""
    return {
        "Image": image,
        "Cmd": ["never-started"],
        "Labels": {**own, "himalia.kind": "preparation"},
        "HostConfig": {"NetworkMode": "none", "Mounts": [_volume(Mount(source=volume, target=INPUT), own)]},
    }
