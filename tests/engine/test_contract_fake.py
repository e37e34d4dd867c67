"""The scripted engine keeps the engines' contract, so what is proven with it holds for the others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from engine.contract import LINE, TEN_MEGABYTES, EngineContract, Program, Rig, build
from himalia_services.engines.fake import Ends, FakeEngine, IgnoresTerm, Runs, Script, unpack
from himalia_services.errors import EngineUnavailable
from himalia_services.model.workload import Image, Input, Workload, WorkloadId

IMAGE = Image(repository="himalia/base", digest="sha256:" + "a" * 64, config_digest="sha256:" + "b" * 64)


class SaysWaiting(Runs):
    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        super().applied(engine, id)
        engine.write(id, b"waiting\n")


class SaysIgnoring(IgnoresTerm):
    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        super().applied(engine, id)
        engine.write(id, b"ignoring\n")


class SaysInput(Runs):
    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        files = unpack(engine.workloads[id].pack)
        lines = {".": ". jovyan", **{folder: f"{folder} jovyan" for folder in _folders(files)}}
        lines |= {name: f"{name} jovyan {data.decode().strip()}" for name, data in files.items()}
        Ends(0, log="".join(f"{lines[name]}\n" for name in sorted(lines)).encode()).applied(engine, id)


def _folders(files: Mapping[str, bytes]) -> set[str]:
    return {name.rsplit("/", 1)[0] for name in files if "/" in name}


class MakesFiles(Runs):
    def applied(self, engine: FakeEngine, id: WorkloadId) -> None:
        for worker in engine.workloads[id].workers:
            engine.start(id, worker)
            engine.write(id, files={"made.txt": b"made\n", "main.py": b"changed\n"}, worker=worker)
            engine.finish(id, 0, worker=worker)


SCRIPTS: Mapping[Program, Script] = {
    "ends with 3": Ends(3),
    "waits": SaysWaiting(),
    "ignores TERM": SaysIgnoring(),
    "eats memory": Ends(137, oom_killed=True, result={}),
    "writes 10 MB": Ends(0, log=TEN_MEGABYTES),
    "says its input": SaysInput(),
    "makes files": MakesFiles(),
}


class FakeRig(Rig):
    def __init__(self) -> None:
        self.fake = FakeEngine()
        self.fake.gone_images.add("sha256:" + "0" * 64)
        self.engine = self.fake

    def workload(
        self, program: Program, *, id: WorkloadId | None = None, input: Input | None = None, count: int = 1
    ) -> Workload:
        made = build(program, IMAGE, {"argv": [program]}, id=id, input=input, count=count)
        self.fake.scripts[made.id] = SCRIPTS[program]
        return made

    async def another(self) -> Rig:
        return FakeRig()

    async def starts(self, id: WorkloadId) -> int:
        return self.fake.starts[id, 0]

    def points(self, workload: Workload) -> int:
        return 2

    async def interrupted(self, workload: Workload, point: int) -> None:
        self.fake.fail("apply", after=point == 1)
        with pytest.raises(EngineUnavailable):
            await self.fake.apply(workload)

    async def remains(self, id: WorkloadId) -> list[str]:
        return [id] if id in self.fake.workloads else []


class TestFake(EngineContract):
    @pytest.fixture
    async def rig(self) -> FakeRig:
        return FakeRig()

    async def check_volume(self, rig: Rig, name: str) -> None:
        assert isinstance(rig, FakeRig)
        assert rig.fake.volumes == {name: {"himalia.kind": "home"}}


def test_the_line_of_the_large_log_is_no_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        LINE.decode()
