"""What a save needs of a Docker engine: whose changes, read by whom, and the one new layer handed to the engine's store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer
from aiodocker.stream import Stream

import himalia_services
from himalia_services.engines import SaveProgress
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model.workload import ImageTarget, Saved, WorkspaceRef
from himalia_services.snapshot import changes, image
from himalia_services.snapshot import save as snapshot
from himalia_services.snapshot.capture import Request
from himalia_services.snapshot.registry import Registry
from himalia_services.snapshot.save import Capture, Snapshot

#: The image whose Python reads where we may not. Ours, never a saved one: what is in those is their owner's.
READER = "himalia/base"
_PYTHON = "/opt/himalia/bin/python"
_HOST = "/host"
_INSIDE = "/himalia"
_SPOOL = "/spool"

_PATIENCE_S = 15.0


async def save(
    docker: aiodocker.Docker,
    registry: Registry,
    source: WorkspaceRef,
    target: ImageTarget,
    progress: SaveProgress,
    *,
    spool: Path | None = None,
    as_root: bool | None = None,
) -> Saved:
    """See `Engine.save`. `spool`: a folder on this machine's disk for files as large as the layer.

    `as_root`: read the container's files ourselves; without root a short container of ours reads them.
    """
    with _answers():
        seen = await _inspect(docker, source)
        store = await _store(docker)
        own = await docker.images.inspect(seen["Image"])
    request = await _request(seen)
    loaded: list[str] = []

    async def load(made: Snapshot) -> None:
        loaded.append(made.manifest.digest if store == "containerd" else image.digest(made.config))
        await _load(docker, registry, made, store)

    capture = snapshot.here
    if not (os.geteuid() == 0 if as_root is None else as_root):
        reader = await _reader_image(docker)
        capture = partial(_in_container, docker, reader, seen["Config"].get("Labels") or {})
    try:
        return await snapshot.save(
            request,
            target,
            registry,
            progress,
            capture=partial(_at_rest, docker, source, seen["State"], capture),
            layers=(own.get("RootFS") or {}).get("Layers"),
            load=load,
            spool=spool,
        )
    except BaseException:
        for name in loaded:
            with contextlib.suppress(aiodocker.DockerError, aiohttp.ClientError):
                await docker.images.delete(name)
        raise


async def _inspect(docker: aiodocker.Docker, source: WorkspaceRef) -> dict[str, Any]:
    try:
        return await docker.containers.container(source.container).show()
    except aiodocker.DockerError as error:
        if error.status != 404:
            raise
        raise EngineError(
            "The workspace has no container, so there is nothing to save. Start it once, then save.",
            code="workspace_gone",
        ) from None


async def _request(seen: Mapping[str, Any]) -> Request:
    state = seen["State"]
    driver = seen.get("GraphDriver") or {}
    upper = (driver.get("Data") or {}).get("UpperDir") or ""
    if not state.get("Pid") and not upper:
        upper = await _containerd_upper(seen["Id"])
    return Request(
        container=seen["Id"],
        spool="",
        pid=int(state.get("Pid") or 0),
        upper=upper,
        mounts=tuple(mount["Destination"] for mount in seen.get("Mounts") or ()),
        paused=bool(state.get("Paused")),
    )


@asynccontextmanager
async def _at_rest(
    docker: aiodocker.Docker, source: WorkspaceRef, before: Mapping[str, Any], capture: Capture, request: Request
) -> AsyncIterator[AsyncIterator[bytes]]:
    """A capture that counts only if nobody set the container going: one that stood still is read without the freezer."""
    async with capture(request) as lines:
        yield lines
    with _answers():
        after = (await _inspect(docker, source))["State"]
    if after["StartedAt"] != before["StartedAt"] or (before.get("Paused") and not after.get("Paused")):
        raise EngineUnavailable("The workspace was started while it was read; it is read again.")


async def _containerd_upper(container: str) -> str:
    """A stopped container's upper folder in containerd's image store, which the engine does not tell."""
    try:
        process = await asyncio.create_subprocess_exec(
            *("ctr", "--namespace", "moby", "snapshots", "--snapshotter", "overlayfs", "mounts", "/nowhere", container),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    told, _ = await process.communicate()
    return _upper_of(told.decode(errors="replace"))


def _upper_of(command: str) -> str:
    """Of `mount -t overlay overlay /nowhere -o …,upperdir=…,…`, which is how ctr tells it."""
    for option in command.strip().rpartition(" -o ")[2].split(","):
        if option.startswith("upperdir="):
            return option.removeprefix("upperdir=")
    return ""


async def _store(docker: aiodocker.Docker) -> str:
    """Which of Docker's two image stores this is: `containerd` or `graph`."""
    info = await docker.system.info()
    kinds = {value for key, value in info.get("DriverStatus") or () if key == "driver-type"}
    return "containerd" if any(kind.startswith("io.containerd.snapshotter") for kind in kinds) else "graph"


# Handing the image to the engine


async def _load(docker: aiodocker.Docker, registry: Registry, made: Snapshot, store: str) -> None:
    """Only the new layer: the engine has those below, since the container stands on them."""
    archive = _oci_archive(registry, made) if store == "containerd" else _docker_archive(made)
    with _answers():
        told: Any = docker.images.import_image(archive)
        for line in await told:
            if "error" in line:
                raise EngineError(f"Docker could not take the saved image: {line['error']}")
        name = made.manifest.digest if store == "containerd" else image.digest(made.config)
        await docker.images.inspect(name)


async def _docker_archive(made: Snapshot) -> AsyncIterator[bytes]:
    config = image.digest(made.config).removeprefix("sha256:")
    layers = [f"{index}/layer.tar" for index in range(len(made.manifest.layers))]
    manifest = [{"Config": f"{config}.json", "RepoTags": None, "Layers": layers}]
    yield _member(f"{config}.json", made.config)
    yield _head(layers[-1], made.uncompressed)
    async for data in made.tar():
        yield data
    yield _pad(made.uncompressed)
    yield _member("manifest.json", json.dumps(manifest).encode()) + bytes(2 * tarfile.BLOCKSIZE)


async def _oci_archive(registry: Registry, made: Snapshot) -> AsyncIterator[bytes]:
    entry = {
        "mediaType": made.manifest.media_type,
        "digest": made.manifest.digest,
        "size": len(made.manifest.body),
        "annotations": {"io.containerd.image.name": f"{registry.url.partition('://')[2]}/{made.name}"},
    }
    index = {"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": [entry]}
    yield _member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield _member("index.json", json.dumps(index).encode())
    yield _member(_blob(made.manifest.digest), made.manifest.body)
    yield _member(_blob(image.digest(made.config)), made.config)
    yield _head(_blob(made.layer.digest), made.layer.size)
    async for data in made.content():
        yield data
    yield _pad(made.layer.size) + bytes(2 * tarfile.BLOCKSIZE)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _member(name: str, data: bytes) -> bytes:
    return _head(name, len(data)) + data + _pad(len(data))


def _head(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _pad(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


# Reading without root


async def _reader_image(docker: aiodocker.Docker) -> str:
    with _answers():
        found = await docker.images.list(filters={"reference": [READER]})
    if not found:
        raise EngineError(
            f"Saving without root takes the platform's own image {READER}, and the engine does not have it. Run `himalia up`."
        )
    return max(found, key=lambda one: one["Created"])["Id"]


@asynccontextmanager
async def _in_container(
    docker: aiodocker.Docker, reader: str, labels: Mapping[str, str], request: Request
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Capture in a short container that sees the engine's processes, the upper folder and the freezer, and no network."""
    found = await asyncio.to_thread(
        partial(changes.find, request.pid, request.container, upper=request.upper, mounts=request.mounts, check=False)
    )
    inside = replace(request, spool=_SPOOL, upper=str(found.upper), host=_HOST)
    config = _reader(reader, labels, str(found.upper), request.spool)
    with _answers():
        container = await docker.containers.create(config)
    try:
        with _answers():
            stream = container.attach(stdin=True, stdout=True, stderr=True)
            async with stream:
                await container.start()
                await stream.write_in(snapshot.wish(inside))
                yield _lines(stream)
    finally:
        # its stdin is closed: it ends and thaws by itself. Killed at once, its dead man's switch would go with it
        await asyncio.shield(_discard(container))


def _reader(reader: str, labels: Mapping[str, str], upper: str, spool: str) -> dict[str, Any]:
    package = str(Path(himalia_services.__file__).parent)
    ours = {key: value for key, value in labels.items() if key == "himalia.instance"}
    return {
        "Image": reader,
        "User": "0:0",
        "Entrypoint": [_PYTHON, "-P", "-B", "-m", "himalia_services.snapshot"],
        "Cmd": [],
        "Env": [f"PYTHONPATH={_INSIDE}"],
        "WorkingDir": "/",
        "Labels": {**ours, "himalia.kind": "save"},
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "AutoRemove": True,
            "PidMode": "host",
            "CgroupnsMode": "host",
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapAdd": ["SYS_ADMIN"],  # attributes named trusted.* are hidden without it
            "SecurityOpt": ["apparmor=unconfined", "label=disable"],
            "LogConfig": {"Type": "none"},
            "Mounts": [
                _bind(upper, _HOST + upper),
                _bind(package, f"{_INSIDE}/himalia_services"),
                _bind(spool, _SPOOL, read_only=False),
                _bind("/sys/fs/cgroup", "/cgroup", read_only=False, deep=True),
            ],
        },
    }


def _bind(source: str, target: str, *, read_only: bool = True, deep: bool = False) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"NonRecursive": not deep},
    }


async def _lines(stream: Stream) -> AsyncIterator[bytes]:
    rest, told = b"", b""
    while (message := await stream.read_out()) is not None:
        if message.stream != 1:
            told += message.data
            continue
        *lines, rest = (rest + message.data).split(b"\n")
        for line in lines:
            yield line
    if last := told.decode(errors="replace").strip().splitlines()[-1:]:
        raise EngineError(f"Reading the container's changes failed: {last[0]}")


async def _discard(container: DockerContainer) -> None:
    with contextlib.suppress(aiodocker.DockerError, aiohttp.ClientError):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(container.wait(), _PATIENCE_S)
        await container.delete(force=True, v=True)


@contextmanager
def _answers() -> Iterator[None]:
    """Docker's errors as ours."""
    try:
        yield
    except aiodocker.DockerError as error:
        if error.status in (900, 502, 503, 504):
            raise EngineUnavailable(f"Docker does not answer: {error.message}") from error
        raise EngineError(f"Docker refused: {error.message}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineUnavailable(f"Docker does not answer: {error or type(error).__name__}") from error
