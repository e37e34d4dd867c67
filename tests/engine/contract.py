"""What every engine keeps to. A rig says how to run these programs on one engine; the promises are the same for all.

Programs are named, not written out: an engine that runs containers has a command for each, the fake one a script.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import secrets
import tarfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from himalia_services.engines import Engine
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model.workload import Image, Input, Observed, Resources, WorkerObserved, Workload, WorkloadId

Program = Literal[
    "ends with 3",
    "waits",  # until TERM, which ends it
    "ignores TERM",
    "eats memory",
    "writes 10 MB",
    "says its input",  # lists owner and content of the project folder into the log
    "makes files",  # made.txt new, main.py changed, in the project folder
]
#: What `writes 10 MB` writes: bytes that are no text, 10,000,000 of them.
LINE = bytes(range(256))
TEN_MEGABYTES = (LINE * 39_063)[:10_000_000]
PATIENCE = 60.0


class Rig(ABC):
    """One installation on one engine."""

    engine: Engine
    memory_bytes = 256 << 20

    @abstractmethod
    def workload(
        self, program: Program, *, id: WorkloadId | None = None, input: Input | None = None, count: int = 1
    ) -> Workload: ...

    @abstractmethod
    async def another(self) -> Rig:
        """A second installation on the same engine."""

    @abstractmethod
    async def starts(self, id: WorkloadId) -> int:
        """How often worker 0 was started."""

    @abstractmethod
    def points(self, workload: Workload) -> int:
        """In how many places `interrupted` can cut off an `apply` of it."""

    @abstractmethod
    async def interrupted(self, workload: Workload, point: int) -> None:
        """An `apply` that is cut off at the point, as by a kill; a new holder goes on with `engine`."""

    @abstractmethod
    async def remains(self, id: WorkloadId) -> list[str]:
        """Containers, volumes and folders that are still there."""


def fresh() -> WorkloadId:
    return WorkloadId(f"job-{secrets.token_hex(6)}-a1")


def build(program: Program, image: Image, spec: Mapping[str, object], **more: Any) -> Workload:
    return Workload(
        id=more.pop("id", None) or fresh(),
        image=image,
        verb="job",
        spec=spec,
        resources=Resources(cpu=1, memory_bytes=Rig.memory_bytes),
        labels={"himalia.test": program.replace(" ", "-")},
        **more,
    )


def packed(folder: Path, files: Mapping[str, bytes]) -> Path:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path = folder / f"{secrets.token_hex(4)}.tar.gz"
    path.write_bytes(gzip.compress(raw.getvalue(), 1))
    return path


T = TypeVar("T")


async def until(what: Callable[[], Awaitable[T | None]], why: str) -> T:
    """The first answer that is not None."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < deadline:
        if (found := await what()) is not None:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{why}: not within {PATIENCE:.0f} s")


async def seen(engine: Engine, id: WorkloadId, state: str, worker: int = 0) -> WorkerObserved:
    async def look() -> WorkerObserved | None:
        observed = (await engine.observe()).get(id, Observed(workers={})).workers.get(worker)
        return observed if observed is not None and observed.state == state else None

    return await until(look, f"{id} {state}")


async def everything(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def unpacked(data: bytes) -> dict[str, bytes]:
    """The regular files of an outputs tar, by path in the project folder."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            if entry.isfile():
                content = tar.extractfile(entry)
                assert content is not None
                files[entry.name.split("/", 1)[1]] = content.read()
    return files


class EngineContract:
    """Subclass with a fixture `rig`."""

    async def test_a_command_ends_with_its_exit_code_and_the_runners_record(self, rig: Rig) -> None:
        workload = rig.workload("ends with 3")
        await rig.engine.apply(workload)
        ended = await seen(rig.engine, workload.id, "exited")
        assert (ended.exit_code, ended.oom_killed) == (3, False)
        assert ended.started_at is not None
        assert ended.finished_at is not None
        assert ended.started_at <= ended.finished_at
        result = await rig.engine.result(workload.id)
        assert result is not None
        assert (result["exit_code"], result["error"]) == (3, None)

    async def test_apply_again_changes_nothing_and_what_has_ended_never_starts_again(self, rig: Rig) -> None:
        workload = rig.workload("waits")
        await asyncio.gather(*(rig.engine.apply(workload) for _ in range(3)))
        await self._says(rig, workload.id, b"waiting")
        await rig.engine.apply(workload)
        await rig.engine.stop(workload.id, timedelta(seconds=10))
        await seen(rig.engine, workload.id, "exited")
        await rig.engine.apply(workload)
        assert (await rig.engine.observe())[workload.id].workers[0].state == "exited"
        assert await rig.starts(workload.id) == 1

    async def test_apply_cut_off_anywhere_and_repeated_makes_one_container_with_its_input(
        self, rig: Rig, tmp_path: Path
    ) -> None:
        input = Input(pack=packed(tmp_path, {"main.py": b"print()\n"}), path="/home/jovyan/project")
        point = 0
        while True:
            workload = rig.workload("says its input", input=input)
            if point >= rig.points(workload):
                break
            await rig.interrupted(workload, point)
            await rig.engine.apply(workload)
            await seen(rig.engine, workload.id, "exited")
            assert await rig.starts(workload.id) == 1, f"cut off at {point}"
            log = await everything(rig.engine.logs(workload.id))
            assert b"main.py jovyan print()" in log, f"cut off at {point}"
            await rig.engine.remove(workload.id)
            assert await rig.remains(workload.id) == [], f"cut off at {point}"
            point += 1
        assert point

    async def test_the_input_is_there_before_the_start_and_belongs_to_the_user(self, rig: Rig, tmp_path: Path) -> None:
        files = {"main.py": b"print()\n", "src/deep.py": b"pass\n"}
        workload = rig.workload("says its input", input=Input(pack=packed(tmp_path, files), path="/job/project"))
        await rig.engine.apply(workload)
        await seen(rig.engine, workload.id, "exited")
        log = (await everything(rig.engine.logs(workload.id))).decode().splitlines()
        assert log == [". jovyan", "main.py jovyan print()", "src jovyan", "src/deep.py jovyan pass"]

    async def test_an_input_of_nothing_is_an_empty_folder_of_the_user(self, rig: Rig) -> None:
        workload = rig.workload("says its input", input=Input(pack=None, path="/job/work"))
        await rig.engine.apply(workload)
        await seen(rig.engine, workload.id, "exited")
        assert (await everything(rig.engine.logs(workload.id))).decode().splitlines() == [". jovyan"]

    async def test_an_input_that_is_gone_is_said_and_nothing_starts(self, rig: Rig, tmp_path: Path) -> None:
        workload = rig.workload("says its input", input=Input(pack=tmp_path / "not-there", path="/job/project"))
        with pytest.raises(EngineError) as caught:
            await rig.engine.apply(workload)
        assert caught.value.reason == "input_gone"
        assert await rig.starts(workload.id) == 0

    async def test_outputs_are_the_project_folder_after_the_end(self, rig: Rig, tmp_path: Path) -> None:
        files = {"main.py": b"old", "kept.txt": b"kept"}
        workload = rig.workload("makes files", input=Input(pack=packed(tmp_path, files), path="/home/jovyan/a b/ü"))
        await rig.engine.apply(workload)
        await seen(rig.engine, workload.id, "exited")
        assert unpacked(await everything(rig.engine.outputs(workload.id))) == {
            "made.txt": b"made\n",
            "main.py": b"changed\n",
            "kept.txt": b"kept",
        }

    async def test_outputs_of_what_is_gone_are_refused_with_a_sentence(self, rig: Rig) -> None:
        with pytest.raises(EngineError, match="gone"):
            await everything(rig.engine.outputs(fresh()))

    async def test_the_log_is_whole_and_can_be_read_from_any_byte(self, rig: Rig) -> None:
        workload = rig.workload("writes 10 MB")
        await rig.engine.apply(workload)
        await seen(rig.engine, workload.id, "exited")
        assert await everything(rig.engine.logs(workload.id)) == TEN_MEGABYTES
        assert await everything(rig.engine.logs(workload.id, offset=9_999_990)) == TEN_MEGABYTES[-10:]
        assert await everything(rig.engine.logs(workload.id, offset=99_999_999)) == b""
        assert await everything(rig.engine.logs(fresh())) == b""

    async def test_a_kill_for_memory_is_reported(self, rig: Rig) -> None:
        workload = rig.workload("eats memory")
        await rig.engine.apply(workload)
        ended = await seen(rig.engine, workload.id, "exited")
        assert ended.oom_killed
        assert ended.exit_code != 0

    async def test_stop_ends_what_listens_and_its_outputs_are_still_there(self, rig: Rig) -> None:
        workload = rig.workload("waits", input=Input(pack=None, path="/job/work"))
        await rig.engine.apply(workload)
        await self._says(rig, workload.id, b"waiting")
        await rig.engine.stop(workload.id, timedelta(seconds=10))
        assert (await seen(rig.engine, workload.id, "exited")).exit_code == 143
        assert unpacked(await everything(rig.engine.outputs(workload.id))) == {}

    async def test_stop_without_grace_ends_what_does_not_listen(self, rig: Rig) -> None:
        workload = rig.workload("ignores TERM")
        await rig.engine.apply(workload)
        await self._says(rig, workload.id, b"ignoring")
        await rig.engine.stop(workload.id, timedelta(seconds=10))
        assert (await rig.engine.observe())[workload.id].workers[0].state == "running"
        await rig.engine.stop(workload.id, timedelta())
        assert (await seen(rig.engine, workload.id, "exited")).exit_code == 137

    async def test_absent_is_success(self, rig: Rig) -> None:
        nobody = fresh()
        await rig.engine.stop(nobody, timedelta(seconds=1))
        await rig.engine.stop(nobody, timedelta())
        await rig.engine.remove(nobody)
        assert nobody not in await rig.engine.observe()
        assert await rig.engine.result(nobody) is None
        ended = rig.workload("ends with 3")
        await rig.engine.apply(ended)
        await seen(rig.engine, ended.id, "exited")
        await rig.engine.stop(ended.id, timedelta(seconds=1))
        await rig.engine.stop(ended.id, timedelta())
        assert (await rig.engine.observe())[ended.id].workers[0].exit_code == 3

    async def test_remove_leaves_nothing_also_of_what_runs(self, rig: Rig) -> None:
        workload = rig.workload("waits", input=Input(pack=None, path="/job/work"))
        await rig.engine.apply(workload)
        await seen(rig.engine, workload.id, "running")
        assert await rig.remains(workload.id)
        await rig.engine.remove(workload.id)
        await rig.engine.remove(workload.id)
        assert await rig.remains(workload.id) == []
        assert workload.id not in await rig.engine.observe()

    async def test_workers_end_each_on_their_own_and_have_folders_of_their_own(self, rig: Rig) -> None:
        workload = rig.workload("makes files", input=Input(pack=None, path="/job/work"), count=2)
        await rig.engine.apply(workload)
        for worker in (0, 1):
            assert (await seen(rig.engine, workload.id, "exited", worker)).exit_code == 0
            assert set(unpacked(await everything(rig.engine.outputs(workload.id, worker)))) == {"made.txt", "main.py"}

    async def test_two_installations_on_one_engine_do_not_see_each_other(self, rig: Rig) -> None:
        other = await rig.another()
        mine = rig.workload("waits")
        theirs = other.workload("waits", id=mine.id)
        await rig.engine.apply(mine)
        await other.engine.apply(theirs)
        await seen(rig.engine, mine.id, "running")
        await seen(other.engine, theirs.id, "running")
        await rig.engine.remove(mine.id)
        assert mine.id not in await rig.engine.observe()
        assert (await other.engine.observe())[theirs.id].workers[0].state == "running"
        await other.engine.remove(theirs.id)

    async def test_an_image_that_is_nowhere_is_said(self, rig: Rig) -> None:
        workload = rig.workload("ends with 3")
        nowhere = Image(repository="env/nobody/gone", digest="sha256:" + "0" * 64, config_digest="sha256:" + "1" * 64)
        with pytest.raises(EngineError) as caught:
            await rig.engine.apply(replace(workload, image=nowhere))
        assert caught.value.reason == "image_gone"
        assert not isinstance(caught.value, EngineUnavailable)

    async def test_a_watch_hints_at_what_changes(self, rig: Rig) -> None:
        workload = rig.workload("ends with 3")
        hints: list[object] = []

        async def listen() -> None:
            async for what in rig.engine.watch():
                hints.append(what)

        async def heard() -> bool | None:
            # A hint may be lost while the watch begins, so another change is made until one is heard.
            if workload.id in hints:
                return True
            await rig.engine.remove(workload.id)
            await rig.engine.apply(workload)
            await seen(rig.engine, workload.id, "exited")
            return None

        listener = asyncio.create_task(listen())
        try:
            await until(heard, "a hint")
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def test_a_volume_is_made_once_and_belongs_to_the_user(self, rig: Rig) -> None:
        name = f"himalia-test-{secrets.token_hex(4)}-home"
        await asyncio.gather(*(rig.engine.ensure_volume(name, labels={"himalia.kind": "home"}) for _ in range(3)))
        await rig.engine.ensure_volume(name, labels={"himalia.kind": "home"})
        await self.check_volume(rig, name)

    async def check_volume(self, rig: Rig, name: str) -> None:
        raise NotImplementedError

    async def _says(self, rig: Rig, id: WorkloadId, word: bytes) -> None:
        async def look() -> bool | None:
            return True if word in await everything(rig.engine.logs(id)) else None

        await until(look, f"{id} says {word!r}")
