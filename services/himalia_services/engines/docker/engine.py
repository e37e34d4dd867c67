"""Docker Engine behind the engine seam. It keeps nothing: names and labels say what is there, a container's state what happened.

A worker is made in four steps: run folder, container (with its volume), input, start. Each may be repeated: the folder is
written over, a container of the name is the container, and the input is put in again while the container was never started.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import shutil
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import aiodocker
import aiohttp
from aiodocker import DockerError

from himalia_services.engines import SaveProgress
from himalia_services.engines.docker import render
from himalia_services.engines.docker.render import Site
from himalia_services.engines.docker.save import save
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.failpoint import failpoint
from himalia_services.model import pack
from himalia_services.model.workload import (
    Image,
    ImageTarget,
    Observed,
    Saved,
    WorkerObserved,
    WorkerState,
    Workload,
    WorkloadId,
    WorkspaceRef,
)
from himalia_services.snapshot.registry import Registry

CHUNK = 256 << 10
RESULT_BYTES = 4 << 20
NAME_TRIES, NAME_PAUSE = 50, 0.1
#: An image of nothing: containers of it never start, they only hold a volume while its owner is set.
EMPTY = "himalia/empty:1"
#: What aiodocker calls "cannot connect", and what a proxy or a daemon that is going down answers.
NO_ANSWER = frozenset({900, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class PullFrom:
    """The platform's registry as the engine reaches it."""

    host: str  # "127.0.0.1:8050"
    username: str
    password: str


class DockerEngine:
    """See `Engine`. `registry` is what a save pushes to, `pull_from` the same registry for Docker's own pulls."""

    def __init__(self, docker: aiodocker.Docker, site: Site, *, registry: Registry, pull_from: PullFrom) -> None:
        self._docker = docker
        self._site = site
        self._registry = registry
        self._pull_from = pull_from
        self._inspected: dict[tuple[str, str], WorkerObserved] = {}

    async def apply(self, workload: Workload) -> None:
        image = await self._image(workload.image)
        for worker in range(workload.count):
            await self._worker(workload, worker, image)

    async def stop(self, id: WorkloadId, grace: timedelta) -> None:
        signal = "SIGTERM" if grace else "SIGKILL"
        for each in await self._containers(id):
            with suppress(Absent):
                async with _asking(30, conflict_is_absent=True):
                    await self._docker.containers.container(each["Id"]).kill(signal=signal)

    async def remove(self, id: WorkloadId) -> None:
        for each in await self._containers(id):
            with suppress(Absent):
                async with _asking(120):
                    await self._docker.containers.container(each["Id"]).delete(force=True, v=True)
        failpoint("engine.remove.volumes")
        for volume in await self._volumes(id):
            with suppress(Absent):
                async with _asking(120), self._docker._query(f"volumes/{volume['Name']}", "DELETE"):
                    pass
        # Last, since what is left of a workload is found by its folder.
        await asyncio.to_thread(shutil.rmtree, self._site.runs / id, ignore_errors=True)

    async def observe(self) -> Mapping[WorkloadId, Observed]:
        folders = await asyncio.to_thread(_names, self._site.runs)
        workers: dict[WorkloadId, dict[int, WorkerObserved]] = {WorkloadId(name): {} for name in folders}
        inspected: dict[tuple[str, str], WorkerObserved] = {}
        for each in await self._containers():
            key = (each["Id"], each["State"])
            seen = self._inspected.get(key) or await self._see(each)
            if seen is None:
                continue
            if seen.state != "created":
                inspected[key] = seen
            marks = each["Labels"]
            workers.setdefault(WorkloadId(marks["himalia.workload"]), {})[int(marks["himalia.worker"])] = seen
        self._inspected = inspected
        return {id: Observed(workers=of) for id, of in workers.items()}

    async def watch(self) -> AsyncIterator[WorkloadId | WorkspaceRef]:
        filters = {"type": ["container"], "label": [f"himalia.instance={self._site.instance}"]}
        params = {"filters": json.dumps(filters)}
        endless = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with self._docker._query("events", params=params, timeout=endless) as response:
                try:
                    async for line in response.content:
                        if (what := _meant(json.loads(line))) is not None:
                            yield what
                finally:
                    response.close()
        except (DockerError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineUnavailable(f"Docker's events ended: {error}") from None

    async def logs(self, id: WorkloadId, worker: int = 0, *, offset: int = 0) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(_open, render.folder(self._site, id, worker) / "log")
        if file is None:
            return
        with file:
            file.seek(offset)
            # A program may write faster than we read: only up to what is there now.
            left = os.fstat(file.fileno()).st_size - offset
            while left > 0 and (data := await asyncio.to_thread(file.read, min(CHUNK, left))):
                left -= len(data)
                yield data

    async def outputs(self, id: WorkloadId, worker: int = 0) -> AsyncIterator[bytes]:
        name = render.name(self._site, id, worker)
        patient = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
        try:
            async with self._docker._query(
                f"containers/{name}/archive", params={"path": render.INPUT}, timeout=patient
            ) as response:
                try:
                    async for data in response.content.iter_chunked(CHUNK):
                        yield data
                finally:
                    response.close()
        except DockerError as error:
            if error.status == 404:
                raise EngineError(
                    f"The container of {id} is gone, and what it made with it.", code="engine_lost"
                ) from None
            raise _translated(error) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineUnavailable(f"Docker stopped answering while the outputs were read: {error}") from None

    async def result(self, id: WorkloadId, worker: int = 0) -> Mapping[str, object] | None:
        file = await asyncio.to_thread(_open, render.folder(self._site, id, worker) / "result.json")
        if file is None:
            return None
        with file:
            data = await asyncio.to_thread(file.read, RESULT_BYTES)
        # A program with sudo can write here too: anything but an object is no record.
        with suppress(ValueError):
            found = json.loads(data)
            return found if isinstance(found, dict) else None
        return None

    async def save(self, source: WorkspaceRef, target: ImageTarget, progress: SaveProgress) -> Saved:
        spool = self._site.spool
        if spool is not None:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return await save(self._docker, self._registry, source, target, progress, spool=spool)

    async def ensure_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """A container that never starts stands for "not ready yet": it is there from before the volume until that has its owner."""
        preparing = f"{name}-new"
        if await self._volume_ready(name, preparing):
            return
        await self._empty_image()
        own = {**labels, "himalia.instance": self._site.instance}
        try:
            await self._create(preparing, render.preparation(name, EMPTY, own))
        except EngineUnavailable:
            if await self._volume_ready(name, preparing):  # another caller was ahead the whole way
                return
            raise
        failpoint("engine.volume.created")
        with suppress(Absent):  # another caller was as far, and is done
            await self._put(preparing, pack.plain(None))
            async with _asking(60, conflict_is_absent=True):
                await self._docker.containers.container(preparing).delete(force=True)

    async def _volume_ready(self, name: str, preparing: str) -> bool:
        return await self._volume_exists(name) and not await self._container_exists(preparing)

    async def remove_image(self, image: str) -> None:
        try:
            async with _asking(120):
                await self._docker.images.delete(image)
        except Absent:
            return
        except Refused as error:
            if error.answer != 409:
                raise

    async def aclose(self) -> None:
        await self._docker.close()

    # Making a worker

    async def _worker(self, workload: Workload, worker: int, image: str) -> None:
        name = render.name(self._site, workload.id, worker)
        found = await self._inspect(name)
        if found is not None and not _never_started(found):
            return
        await asyncio.to_thread(_write_spec, render.folder(self._site, workload.id, worker), workload.spec)
        failpoint("engine.apply.folder")
        if found is None:
            await self._create(name, render.container(self._site, workload, worker, image))
            failpoint("engine.apply.created")
        if workload.input is not None:
            await self._fill(name, workload.input.pack)
            failpoint("engine.apply.input")
        await self._start(name)
        failpoint("engine.apply.started")

    async def _create(self, name: str, body: Mapping[str, Any]) -> None:
        try:
            async with _asking(120):
                await self._docker.containers.create(body, name=name)
        except Absent as error:
            raise EngineError(f"Docker cannot make the container: {error}", code="start_failed") from None
        except Refused as error:
            if error.answer != 409:
                raise EngineError(error.detail, code="start_failed") from None
            await self._until_there(name)

    async def _until_there(self, name: str) -> None:
        """A name is taken a moment before its container can be seen, and a moment after it is gone."""
        for _ in range(NAME_TRIES):
            if await self._inspect(name) is not None:
                return
            await asyncio.sleep(NAME_PAUSE)
        raise EngineUnavailable(f"Docker is still making or removing an earlier {name}.")

    async def _fill(self, name: str, input: Path | None) -> None:
        try:
            if input is None:
                await self._put(name, pack.plain(None))
                return
            with await asyncio.to_thread(input.open, "rb") as file:
                await self._put(name, pack.plain(file))
        except FileNotFoundError:
            raise EngineError("The input of this job is no longer kept.", code="input_gone") from None
        except Absent as error:
            raise EngineUnavailable(f"The container {name} went away while it was filled: {error}") from None

    async def _put(self, name: str, tar: Iterator[bytes]) -> None:
        """Unpack a tar into a container's `/run/himalia`."""

        async def body() -> AsyncIterator[bytes]:
            pieces = pack.gathered(tar)
            while (data := await asyncio.to_thread(next, pieces, None)) is not None:
                yield data

        async with _asking(900):
            # The parent is made by mounting, so the volume is there to be filled before anything ran.
            await self._docker.containers.container(name).put_archive("/run/himalia", body())

    async def _start(self, name: str) -> None:
        try:
            async with _asking(180):
                await self._docker.containers.container(name).start()
        except Absent as error:
            raise EngineError(f"Docker cannot start the container: {error}", code="start_failed") from None
        except Refused as error:
            raise EngineError(error.detail, code="start_failed") from None

    async def _image(self, image: Image) -> str:
        """What this engine calls the image: by config on graph drivers, by manifest on containerd's store; pulled when neither is here."""
        for id in (image.config_digest, image.digest):
            if id and await self._image_exists(id):
                return id
        return await self._pull(image)

    async def _pull(self, image: Image) -> str:
        reference = f"{self._pull_from.host}/{image.repository}@{image.digest}"
        auth = {"username": self._pull_from.username, "password": self._pull_from.password}
        try:
            async with _asking(3600):
                await self._docker.images.pull(reference, auth=auth)
        except (Absent, Refused) as error:
            if isinstance(error, Absent) or _says_gone(error.detail):
                raise EngineError(
                    f"The image {image.repository} is no longer in the registry.", code="image_gone"
                ) from None
            raise EngineUnavailable(f"The image {image.repository} cannot be fetched now. {error.detail}") from None
        return reference

    async def _image_exists(self, id: str) -> bool:
        try:
            async with _asking(30):
                await self._docker.images.inspect(id)
        except Absent:
            return False
        return True

    async def _empty_image(self) -> None:
        if await self._image_exists(EMPTY):
            return
        nothing = io.BytesIO()
        tarfile.open(fileobj=nothing, mode="w").close()
        repository, tag = EMPTY.split(":")
        params = {"fromSrc": "-", "repo": repository, "tag": tag}
        async with (
            _asking(60),
            self._docker._query("images/create", "POST", params=params, data=nothing.getvalue()) as response,
        ):
            await response.read()

    # Looking

    async def _containers(self, id: WorkloadId | None = None) -> list[dict[str, Any]]:
        async with _asking(60):
            found = await self._docker._query_json(
                "containers/json", params={"all": "1", "filters": json.dumps({"label": self._labels(id)})}
            )
        return found

    async def _volumes(self, id: WorkloadId) -> list[dict[str, Any]]:
        async with _asking(60):
            found = await self._docker._query_json(
                "volumes", params={"filters": json.dumps({"label": self._labels(id)})}
            )
        return found.get("Volumes") or []

    def _labels(self, id: WorkloadId | None) -> list[str]:
        labels = [f"himalia.instance={self._site.instance}", "himalia.kind=workload"]
        return [*labels, f"himalia.workload={id}"] if id is not None else labels

    async def _see(self, listed: Mapping[str, Any]) -> WorkerObserved | None:
        """One container of a listing. None: it is going, or gone."""
        if listed["State"] == "created":
            return WorkerObserved(state="created")
        if listed["State"] == "removing" or (body := await self._inspect(listed["Id"])) is None:
            return None
        return _observed(body["State"])

    async def _inspect(self, container: str) -> dict[str, Any] | None:
        try:
            async with _asking(30):
                return await self._docker._query_json(f"containers/{container}/json")
        except Absent:
            return None

    async def _container_exists(self, name: str) -> bool:
        return await self._inspect(name) is not None

    async def _volume_exists(self, name: str) -> bool:
        try:
            async with _asking(30):
                await self._docker._query_json(f"volumes/{name}")
        except Absent:
            return False
        return True


class Absent(Exception):
    """Docker has no such thing, or it is in no state for this; never leaves this module."""


class Refused(EngineError):
    """Docker said no; `answer` is the HTTP status it said it with."""

    def __init__(self, detail: str, *, answer: int) -> None:
        super().__init__(detail)
        self.answer = answer


@asynccontextmanager
async def _asking(seconds: float, *, conflict_is_absent: bool = False) -> AsyncIterator[None]:
    """One question to Docker: in time, with the seam's errors; aiodocker itself waits for ever."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except DockerError as error:
        if error.status == 404 or (conflict_is_absent and error.status == 409):
            raise Absent(error.message) from None
        raise _translated(error) from None
    except TimeoutError:
        raise EngineUnavailable(f"Docker did not answer within {seconds:.0f} seconds.") from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise EngineUnavailable(f"Docker does not answer: {error}") from None


def _translated(error: DockerError) -> EngineError:
    if error.status in NO_ANSWER:
        return EngineUnavailable(f"Docker does not answer: {error.message}")
    return Refused(f"Docker says: {error.message}", answer=error.status)


def _says_gone(sentence: str) -> bool:
    return any(words in sentence.lower() for words in ("not found", "manifest unknown", "name unknown"))


def _meant(event: Mapping[str, Any]) -> WorkloadId | WorkspaceRef | None:
    marks = event.get("Actor", {}).get("Attributes", {})
    if id := marks.get("himalia.workload"):
        return WorkloadId(id)
    if id := marks.get("himalia.workspace"):
        return WorkspaceRef(id=id, container=marks.get("name", ""))
    return None


def _never_started(body: Mapping[str, Any]) -> bool:
    return body["State"]["Status"] == "created"


def _observed(state: Mapping[str, Any]) -> WorkerObserved:
    kind = _state(state)
    ended = kind == "exited"
    return WorkerObserved(
        state=kind,
        exit_code=state["ExitCode"] if ended else None,
        oom_killed=bool(state["OOMKilled"]) if ended else False,
        started_at=_time(state["StartedAt"]),
        finished_at=_time(state["FinishedAt"]) if ended else None,
        message=state.get("Error", ""),
    )


def _state(state: Mapping[str, Any]) -> WorkerState:
    if state["Status"] == "created":
        return "created"
    return "exited" if state["Status"] in ("exited", "dead") else "running"


def _time(text: str) -> datetime | None:
    """Docker's time has nanoseconds, and the year 1 for never."""
    if not text or text.startswith("0001-"):
        return None
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}").replace(tzinfo=UTC)


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def _write_spec(folder: Path, spec: Mapping[str, object]) -> None:
    for path in (folder.parent, folder):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
    unfinished = folder / f".spec-{uuid4().hex}.json"
    unfinished.write_text(json.dumps(spec))
    unfinished.replace(folder / "spec.json")


def _open(path: Path) -> BinaryIO | None:
    """A regular file that a container wrote. It may have made a link or a pipe of it: those are not followed, nor waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return os.fdopen(handle, "rb")
