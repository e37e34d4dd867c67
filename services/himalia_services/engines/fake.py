"""A scripted engine in memory, for tests: it does what its script says and forgets nothing it was asked.

Nothing happens on its own: a workload runs until the test ends it (`finish`), unless its image or verb has a script that does.
`calls` is what was asked, `starts` how often each worker was started, so that a test can prove that nothing ran twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from himalia_services.engines import SaveProgress
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model.pack import FOLDER
from himalia_services.model.workload import (
    Image,
    ImageTarget,
    Observed,
    Saved,
    WorkerObserved,
    Workload,
    WorkloadId,
    WorkspaceRef,
)


@dataclass
class FakeWorker:
    """One worker: what is seen of it and what it left."""

    observed: WorkerObserved = field(default_factory=lambda: WorkerObserved(state="created"))
    log: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    result: Mapping[str, object] | None = None
    signals: list[str] = field(default_factory=list)


@dataclass
class FakeWorkload:
    workload: Workload
    workers: dict[int, FakeWorker]
    pack: bytes | None = None  # what the input held when it was applied


class Script(Protocol):
    """What a workload does by itself."""

    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        """After `apply` made the workers."""
        ...

    def stopped(self, engine: FakeEngine, id: WorkloadId, signal: str) -> None:
        """After a signal."""
        ...


class Runs:
    """Starts at once, runs until the test ends it; TERM ends it with 143, KILL with 137."""

    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        engine.start(id)

    def stopped(self, engine: FakeEngine, id: WorkloadId, signal: str) -> None:
        engine.finish(id, 143 if signal == "TERM" else 137, result=signal == "TERM")


class SlowToStart(Runs):
    """Stays created until the test calls `start`."""

    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        return


class IgnoresTerm(Runs):
    """Only KILL ends it."""

    def stopped(self, engine: FakeEngine, id: WorkloadId, signal: str) -> None:
        if signal == "KILL":
            engine.finish(id, 137, result=False)


class Ends(Runs):
    """Runs to its end at once."""

    def __init__(
        self,
        exit_code: int = 0,
        *,
        log: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        oom_killed: bool = False,
        result: Mapping[str, object] | None = None,
    ) -> None:
        self.exit_code, self.log, self.files = exit_code, log, dict(files or {})
        self.oom_killed, self.result = oom_killed, result

    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        engine.start(id)
        engine.write(id, self.log, self.files)
        engine.finish(
            id, self.exit_code, oom_killed=self.oom_killed, result=self.result if self.result is not None else True
        )


class FakeEngine:
    """The engine protocol over dictionaries.

    `unavailable` makes every verb raise EngineUnavailable. `fail(verb, error)` makes the next call of a verb raise, before it had its
    effect or, with `after`, behind it: a crash between the engine and the row.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or Runs()
        #: A script per verb or workload id goes before the general one.
        self.scripts: dict[str, Script] = {}
        self.unavailable = False
        self.workloads: dict[WorkloadId, FakeWorkload] = {}
        self.volumes: dict[str, dict[str, str]] = {}
        self.gone_images: set[str] = set()
        self.removed_images: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.starts: Counter[tuple[str, int]] = Counter()
        self.saves: list[tuple[WorkspaceRef, ImageTarget]] = []
        self.saving = asyncio.Event()
        self.may_save = asyncio.Event()
        self.may_save.set()
        self._failures: defaultdict[str, deque[tuple[BaseException, bool]]] = defaultdict(deque)
        self._watchers: set[asyncio.Queue[WorkloadId | WorkspaceRef | None]] = set()

    # What a test does

    def fail(self, verb: str, error: BaseException | None = None, *, after: bool = False, times: int = 1) -> None:
        """The next `times` calls of `verb` raise `error`."""
        for _ in range(times):
            self._failures[verb].append((error or EngineUnavailable("The engine does not answer."), after))

    def fail_save(self, error: BaseException | None = None, *, after: bool = False, times: int = 1) -> None:
        self.fail(
            "save",
            error or EngineError("The layer could not be written.", code="commit_failed"),
            after=after,
            times=times,
        )

    def start(self, id: WorkloadId, worker: int = 0) -> None:
        """The worker runs from now on."""
        it = self.workloads[id].workers[worker]
        if it.observed.state == "created":
            self.starts[id, worker] += 1
            it.observed = replace(it.observed, state="running", started_at=datetime.now(UTC))
            self.hint(id)

    def write(
        self, id: WorkloadId, log: bytes = b"", files: Mapping[str, bytes] | None = None, worker: int = 0
    ) -> None:
        """Add to the worker's log and project folder."""
        it = self.workloads[id].workers[worker]
        it.log += log
        it.files.update(files or {})

    def finish(
        self,
        id: WorkloadId,
        exit_code: int = 0,
        *,
        worker: int = 0,
        oom_killed: bool = False,
        result: bool | Mapping[str, object] = True,
    ) -> None:
        """The worker ends. `result` True: the runner wrote the usual record; False: it could not; else what it wrote."""
        it = self.workloads[id].workers[worker]
        if it.observed.state == "exited":
            return
        ended = datetime.now(UTC)
        it.observed = replace(
            it.observed, state="exited", exit_code=exit_code, oom_killed=oom_killed, finished_at=ended
        )
        if result is True:
            signal = exit_code - 128 if exit_code > 128 else None
            it.result = {
                "exit_code": exit_code,
                "signal": signal,
                "started_at": "",
                "ended_at": ended.isoformat(),
                "error": None,
            }
        else:
            it.result = result or None
        self.hint(id)

    def lose(self, id: WorkloadId) -> None:
        """The containers vanish, as when somebody removes them by hand."""
        del self.workloads[id]
        self.hint(id)

    def hint(self, what: WorkloadId | WorkspaceRef) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(what)

    def break_watch(self) -> None:
        """The event stream ends, as when the engine restarts."""
        for watcher in self._watchers:
            watcher.put_nowait(None)

    def live(self) -> set[WorkloadId]:
        return {
            id
            for id, it in self.workloads.items()
            if any(w.observed.state in ("created", "running") for w in it.workers.values())
        }

    # The protocol

    async def apply(self, workload: Workload) -> None:
        late = self._called("apply", workload.id)
        if workload.image.digest in self.gone_images:
            raise EngineError(f"The image {workload.image.repository} is no longer there.", code="image_gone")
        there = self.workloads.get(workload.id)
        if there is None:
            there = FakeWorkload(workload, {k: FakeWorker() for k in range(workload.count)}, _read(workload))
            self.workloads[workload.id] = there
            self._script(workload.id).applied(self, workload.id)
        self._raise(late)

    async def stop(self, id: WorkloadId, grace: timedelta) -> None:
        late = self._called("stop", id)
        signal = "TERM" if grace else "KILL"
        it = self.workloads.get(id)
        if it is not None:
            live = [w for w in it.workers.values() if w.observed.state == "running"]
            for worker in live:
                worker.signals.append(signal)
            if live:
                self._script(id).stopped(self, id, signal)
        self._raise(late)

    async def remove(self, id: WorkloadId) -> None:
        late = self._called("remove", id)
        if self.workloads.pop(id, None) is not None:
            self.hint(id)
        self._raise(late)

    async def observe(self) -> Mapping[WorkloadId, Observed]:
        late = self._called("observe", "")
        seen = {
            id: Observed(workers={k: w.observed for k, w in it.workers.items()}) for id, it in self.workloads.items()
        }
        self._raise(late)
        return seen

    async def watch(self) -> AsyncIterator[WorkloadId | WorkspaceRef]:
        self._called("watch", "")
        queue: asyncio.Queue[WorkloadId | WorkspaceRef | None] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            while (what := await queue.get()) is not None:
                yield what
        finally:
            self._watchers.discard(queue)

    async def logs(self, id: WorkloadId, worker: int = 0, *, offset: int = 0) -> AsyncIterator[bytes]:
        self._called("logs", id)
        it = self.workloads.get(id)
        if it is not None and worker in it.workers and (data := it.workers[worker].log[offset:]):
            yield data

    async def outputs(self, id: WorkloadId, worker: int = 0) -> AsyncIterator[bytes]:
        self._called("outputs", id)
        it = self.workloads.get(id)
        if it is None or worker not in it.workers:
            raise EngineError(f"The container of {id} is gone, and the files it made with it.", code="engine_lost")
        data = folder_tar({**unpack(it.pack), **it.workers[worker].files})
        for start in range(0, len(data), 4096):
            yield data[start : start + 4096]

    async def result(self, id: WorkloadId, worker: int = 0) -> Mapping[str, object] | None:
        self._called("result", id)
        it = self.workloads.get(id)
        return it.workers[worker].result if it is not None and worker in it.workers else None

    async def save(self, source: WorkspaceRef, target: ImageTarget, progress: SaveProgress) -> Saved:
        self.saves.append((source, target))
        self.saving.set()
        late = self._called("save", source.id)
        progress("Committing", 0)
        await self.may_save.wait()
        progress("Pushing", 1000)
        identity = f"{target.repository}:{target.tag} on {target.base.digest}".encode()
        image = Image(
            repository=target.repository,
            digest="sha256:" + hashlib.sha256(b"manifest of " + identity).hexdigest(),
            config_digest="sha256:" + hashlib.sha256(b"config of " + identity).hexdigest(),
        )
        self._raise(late)
        return Saved(image=image, size_bytes=1000, uncompressed_bytes=2000, entries=3, layers=2)

    async def ensure_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        late = self._called("ensure_volume", name)
        self.volumes.setdefault(name, dict(labels))
        self._raise(late)

    async def remove_image(self, image: str) -> None:
        self._called("remove_image", image)
        self.removed_images.append(image)

    async def aclose(self) -> None:
        self.break_watch()

    def _called(self, verb: str, id: str) -> BaseException | None:
        """Note the call and raise what was scripted for it; an error meant for afterwards is returned."""
        self.calls.append((verb, id))
        if self.unavailable:
            raise EngineUnavailable("The engine does not answer.")
        if not self._failures[verb]:
            return None
        error, after = self._failures[verb].popleft()
        if after:
            return error
        raise error

    def _raise(self, error: BaseException | None) -> None:
        if error is not None:
            raise error

    def _script(self, id: WorkloadId) -> Script:
        return self.scripts.get(id) or self.scripts.get(self.workloads[id].workload.verb) or self.script


def folder_tar(files: Mapping[str, bytes]) -> bytes:
    """The tar an engine would give for a project folder with `files`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        top = tarfile.TarInfo(FOLDER)
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _read(workload: Workload) -> bytes | None:
    if workload.input is None or workload.input.pack is None:
        return None
    try:
        return workload.input.pack.read_bytes()
    except FileNotFoundError:
        raise EngineError("The input of this job is no longer kept.", code="input_gone") from None


def unpack(pack: bytes | None) -> dict[str, bytes]:
    if pack is None:
        return {}
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(pack), mode="r:gz") as tar:
        for entry in tar:
            if entry.isfile() and (content := tar.extractfile(entry)) is not None:
                files[entry.name.removeprefix("./")] = content.read()
    return files
