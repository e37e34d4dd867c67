"""The whole save: a container's changes into the registry as one layer on the image they belong to. Knows no engine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from himalia_services.errors import EngineError
from himalia_services.model.workload import Image, ImageTarget, Saved
from himalia_services.snapshot import image
from himalia_services.snapshot.capture import FINAL, LIVE, SPILL, Captured, Request
from himalia_services.snapshot.image import Manifest
from himalia_services.snapshot.pieces import inflater
from himalia_services.snapshot.registry import Registry, Upload

COMMITTING, PUSHING = "Committing", "Pushing"

#: What overlay file systems mount on top of each other, less a few.
_MOST_LAYERS = 120

_CHUNK = 1 << 20

_PREFIX = "himalia-save-"
_YOUNG_S = 60.0

#: Told the phase and the bytes sent so far.
Progress = Callable[[str, int], None]

#: Starts a capture and gives its lines; ends it when left.
Capture = Callable[[Request], AbstractAsyncContextManager[AsyncIterator[bytes]]]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A saved image as long as the layer's file is at hand: what an engine needs to get it without pulling."""

    name: str
    manifest: Manifest
    config: bytes
    layer: image.Layer
    uncompressed: int
    descriptor: int  # of the gzipped layer

    async def tar(self) -> AsyncIterator[bytes]:
        """The layer's content, for an engine that would be slower at it."""
        inflate = inflater()
        async for data in self.content():
            yield await asyncio.to_thread(inflate.decompress, data)

    async def content(self) -> AsyncIterator[bytes]:
        """The layer, gzipped."""
        offset = 0
        while offset < self.layer.size:
            data = await asyncio.to_thread(os.pread, self.descriptor, _CHUNK, offset)
            if not data:
                raise EngineError("The layer's file ended early. Try again.")
            offset += len(data)
            yield data


#: Hands the image to the engine.
Load = Callable[[Snapshot], Coroutine[Any, Any, None]]


async def save(
    request: Request,
    target: ImageTarget,
    registry: Registry,
    progress: Progress,
    *,
    capture: Capture | None = None,
    layers: Sequence[str] | None = None,
    load: Load | None = None,
    spool: Path | None = None,
) -> Saved:
    """Capture and push, then name the image while the engine gets it (`load`). The manifest comes last: a whole image or none.

    `layers` are the diff ids that the container stands on; another base is refused. `spool` is a folder for files as large
    as the layer; they are unlinked while they are in use.
    """
    progress(COMMITTING, 0)
    async with _spool(spool) as files:
        flow = _Flow(files, progress)
        source = replace(request, spool=str(files.folder))
        base, captured, upload = await _together(
            _base(registry, target, layers),
            flow.follow((capture or here)(source)),
            flow.transfer(registry, target.repository),
        )
        layer = image.Layer(digest=captured.digest, diff_id=captured.diff_id, size=captured.size)
        config = image.config(base.config, layer, created=datetime.now(UTC))
        manifest = image.manifest(base.manifest, config, layer, base_name=target.base.repository)
        name = f"{target.repository}:{target.tag}"
        snapshot = Snapshot(
            name=name,
            manifest=manifest,
            config=config,
            layer=layer,
            uncompressed=captured.uncompressed,
            descriptor=files.descriptors[captured.file],
        )
        await _publish(registry, upload, snapshot, target, load)
    return Saved(
        image=Image(repository=target.repository, digest=manifest.digest, config_digest=image.digest(config)),
        size_bytes=captured.size,
        uncompressed_bytes=captured.uncompressed,
        entries=captured.entries,
        layers=len(manifest.layers),
        left_out=captured.left_out,
    )


@asynccontextmanager
async def here(request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """Capture in a child process, as the user we are."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "himalia_services.snapshot",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        process.stdin.write(wish(request))
        await process.stdin.drain()
        yield _until_end(process.stdout, process.stderr)
    finally:
        process.stdin.close()  # the capture ends with it, and thaws
        await asyncio.shield(process.wait())


def wish(request: Request) -> bytes:
    """The request as the capture's process reads it."""
    return json.dumps(vars(request)).encode() + b"\n"


async def _until_end(stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> AsyncIterator[bytes]:
    async for line in stdout:
        yield line
    if told := (await stderr.read()).decode(errors="replace").strip():
        raise EngineError(f"Reading the container's changes failed: {told.splitlines()[-1]}")


@dataclass(frozen=True)
class _Files:
    folder: Path
    descriptors: dict[str, int]

    def unlink(self) -> None:
        """Nothing is left behind from here on, however we end."""
        shutil.rmtree(self.folder, ignore_errors=True)


@asynccontextmanager
async def _spool(parent: Path | None) -> AsyncIterator[_Files]:
    files = _files(parent)
    try:
        yield files
    finally:
        files.unlink()
        for descriptor in files.descriptors.values():
            os.close(descriptor)


def _files(parent: Path | None) -> _Files:
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL
    descriptors = {name: os.open(folder / name, flags, 0o600) for name in (LIVE, FINAL, SPILL)}
    fcntl.flock(descriptors[LIVE], fcntl.LOCK_EX)
    return _Files(folder, descriptors)


def _sweep(parent: Path) -> None:
    """Who is killed before the capture has begun leaves empty files, and nobody holds their lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _YOUNG_S and not _is_held(folder / LIVE):
                shutil.rmtree(folder, ignore_errors=True)


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class _Superseded(Exception):
    """The layer is being put together anew in another file."""


class _Flow:
    """Between the capture, which fills files, and the upload, which follows them."""

    def __init__(self, files: _Files, progress: Progress) -> None:
        self._files = files
        self._progress = progress
        self._file = LIVE
        self._size = 0
        self._ended = False
        self._sent = 0
        self._news = asyncio.Event()

    async def follow(self, capture: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> Captured:
        async with capture as lines:
            async for line in lines:
                done = self._hear(json.loads(line))
                if done is not None:
                    self._progress(PUSHING, self._sent)
                    return done
        raise EngineError("Reading the container's changes ended before it was done. Save again.")

    def _hear(self, line: dict[str, Any]) -> Captured | None:
        if "error" in line:
            raise EngineError(line["error"])
        if "ready" in line:
            self._files.unlink()
        elif "spooled" in line:
            self._size = line["spooled"]
        elif "again" in line:
            self._file, self._size = FINAL, 0
        self._news.set()
        if "done" not in line:
            return None
        done = Captured(**{**line["done"], "left_out": tuple(line["done"]["left_out"])})
        self._file, self._size, self._ended = done.file, done.size, True
        return done

    async def transfer(self, registry: Registry, repository: str) -> Upload:
        """Everything is sent; the blob still has to be named."""
        while True:
            upload = await registry.start(repository)
            try:
                await registry.send(upload, self._content())
                return upload
            except _Superseded:
                await registry.cancel(upload)
            except BaseException:
                await asyncio.shield(registry.cancel(upload))
                raise

    async def _content(self) -> AsyncIterator[bytes]:
        file = self._file
        self._sent = 0
        while True:
            self._news.clear()
            if self._file != file:
                raise _Superseded
            if self._sent < self._size:
                count = min(_CHUNK, self._size - self._sent)
                data = await asyncio.to_thread(os.pread, self._files.descriptors[file], count, self._sent)
                self._sent += len(data)
                self._progress(PUSHING if self._ended else COMMITTING, self._sent)
                yield data
            elif self._ended:
                return
            else:
                await self._news.wait()


@dataclass(frozen=True)
class _Base:
    manifest: Manifest
    config: image.Document


async def _base(registry: Registry, target: ImageTarget, layers: Sequence[str] | None) -> _Base:
    """The image the container stands on; its blobs are the new image's afterwards."""
    source = target.base.repository
    manifest = await _manifest(registry, target.base)
    config = json.loads(await registry.blob(source, manifest.config_digest))
    below = list(config["rootfs"]["diff_ids"])
    if layers is not None and below != list(layers):
        raise EngineError(
            f"The container does not stand on {source} ({target.base.digest}), so its changes would not fit that image. "
            "It was made by hand or from another image."
        )
    if len(below) >= _MOST_LAYERS:
        raise EngineError(
            f"The environment already has {len(below)} layers, and an engine takes few more. Start a workspace from a "
            "version further back, repeat the changes there and save that."
        )
    if source != target.repository:
        blobs = dict.fromkeys(layer["digest"] for layer in manifest.layers)
        await _together(*(registry.mount(target.repository, blob, source) for blob in blobs))
    return _Base(manifest, config)


async def _manifest(registry: Registry, base: Image) -> Manifest:
    """Of an index the one with the config we know."""
    found = await registry.manifest(base.repository, base.digest)
    if found.media_type not in image.INDEXES:
        return found
    for one in found.document.get("manifests", ()):
        if one.get("platform", {}).get("os") == "unknown":
            continue  # an attestation
        manifest = await registry.manifest(base.repository, one["digest"])
        if manifest.config_digest == base.config_digest:
            return manifest
    raise EngineError(
        f"The image {base.repository} ({base.digest}) holds nothing for this machine. Push the base image again, then save."
    )


async def _together(*jobs: Coroutine[Any, Any, Any]) -> list[Any]:
    """All of them, or the first failure once the others have ended."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _publish(
    registry: Registry, upload: Upload, snapshot: Snapshot, target: ImageTarget, load: Load | None
) -> None:
    """In the registry and in the engine, or in neither."""

    async def name() -> None:
        repository = target.repository
        await _together(registry.finish(upload, snapshot.layer.digest), registry.push(repository, snapshot.config))
        await registry.put_manifest(repository, target.tag, snapshot.manifest)

    try:
        # neither is given up half-way for the other's failure: what an engine still does unseen cannot be taken back
        ended = await asyncio.gather(name(), load(snapshot) if load else _nothing(), return_exceptions=True)
        for failure in ended:
            if failure is not None:
                raise failure
    except BaseException:
        with contextlib.suppress(EngineError):
            await asyncio.shield(registry.delete_manifest(target.repository, snapshot.manifest.digest))
        raise


async def _nothing() -> None: ...
