"""Jobs at work in a control plane: packs to submit, passes of the reconciler, kills between any two of its steps."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from himalia_services.app import API
from himalia_services.engines.fake import FakeWorkload
from himalia_services.model.workload import WorkloadId
from himalia_services.parts import Parts
from himalia_services.reconcile import due, job
from himalia_services.store import tables as t
from service.fakehub import FakeHub
from service.house import House, Json

FOLDER = "/home/jovyan/project"


class Killed(BaseException):
    """`kill -9`: nothing that is written to handle errors sees it."""


def packed(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 1, mtime=0)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class JobHouse(House):
    """`submit` speaks for a person, `work` runs the reconciler until nothing is left to do at once."""

    async def upload(self, who: str, pack: bytes, *, of: str | None = None, **query: Any) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=self._api, base_url=f"{self.parts.settings.service_origin}{API}"
        ) as client:
            headers = {"Authorization": f"Bearer {self.token(who)}", "Content-Type": "application/gzip"}
            return await client.put(f"/inputs/{of or digest(pack)}", content=pack, params=query, headers=headers)

    async def submit(
        self, who: str = "ada", *, files: Mapping[str, bytes] | None = None, expect: int = 202, **more: Any
    ) -> Json:
        body: Json = {"kind": "command", "environment": "himalia/base", "command": ["make"], **more}
        if files is not None:
            pack = packed(files)
            assert (await self.upload(who, pack)).status_code == 200
            body["input"] = {"digest": digest(pack), "path": FOLDER}
        return await self.ask(who, "POST", "/jobs", body, expect=expect)

    async def job(self, id: str, who: str = "ada") -> Json:
        return await self.ask(who, "GET", f"/jobs/{id}")

    async def log(self, id: str, who: str = "ada", **query: Any) -> str:
        answer = await self.send(who, "GET", f"/jobs/{id}/log", **query)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def work(self, passes: int = 1) -> None:
        """Passes over every job, as if all timers had run out."""
        for _ in range(passes):
            async with self.parts.db.write() as session:
                await session.execute(update(t.Job).values(wake_at=t.now()))
            await job.step(self.parts, "test")

    async def over(self, id: str, who: str = "ada") -> Json:
        seen: Json = {}
        for _ in range(6):
            await self.work()
            seen = await self.job(id, who)
            if seen["status"] in ("Succeeded", "Failed", "Stopped"):
                return seen
        raise AssertionError(f"not over: {seen}")

    async def runs(self, who: str = "ada", **more: Any) -> Json:
        """A job that runs until the test ends it."""
        made = await self.submit(who, **more)
        await self.work()
        seen = await self.job(made["id"], who)
        assert seen["status"] == "Running", seen
        return seen

    async def killed(self) -> None:
        """A pass that is cut off by `kill -9`, and another process that takes over what it left."""
        async with self.parts.db.write() as session:
            await session.execute(update(t.Job).values(wake_at=t.now()))
        with pytest.raises(BaseExceptionGroup) as caught:
            await job.step(self.parts, "killed")
        assert caught.value.subgroup(Killed) is not None
        await self.restart()
        await due.free(self.parts.db, [t.Job])

    def workload_ids(self) -> list[WorkloadId]:
        return sorted(self.engine.workloads)

    def workload(self, id: str) -> FakeWorkload:
        return self.engine.workloads[attempt(id)]

    async def outputs(self, id: str, who: str = "ada") -> dict[str, tuple[str, bytes]]:
        """What a job made: how it changed, and the bytes as they are downloaded."""
        found = {}
        for item in (await self.ask(who, "GET", f"/jobs/{id}/outputs"))["items"]:
            answer = await self.send(who, "GET", f"/jobs/{id}/outputs/{item['path']}")
            assert answer.status_code == 200, answer.text
            assert digest(answer.content) == item["digest"]
            found[item["path"]] = (item["change"], answer.content)
        return found

    async def logged(self, id: str, who: str = "ada", **query: Any) -> tuple[str, Json]:
        """The log as a stream of events, joined, and the last event; offsets fit to each other."""
        answer = await self.send(who, "GET", f"/jobs/{id}/log", headers={"Accept": "text/event-stream"}, **query)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return joined(answer.text, query.get("offset", 0))


def joined(stream: str, offset: int = 0) -> tuple[str, Json]:
    text, last = "", {}
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if fields.get("event") == "log":
            data = json.loads(fields["data"])
            assert data["offset"] == offset, "a gap or a repetition"
            assert int(fields["id"]) == data["next"] >= offset
            offset, text = data["next"], text + data["text"]
        elif fields.get("event") == "end":
            last = json.loads(fields["data"])
    return text, last


def attempt(id: str, number: int = 1) -> WorkloadId:
    return WorkloadId(f"{id}-a{number}")


def statuses(seen: Json) -> list[str]:
    return [entry["status"] for entry in seen["status_history"]]


def kills_at(monkeypatch: pytest.MonkeyPatch, point: str) -> Sequence[str]:
    """The process ends at this failpoint, once. Returns the points that were passed."""
    passed: list[str] = []

    def failpoint(name: str) -> None:
        passed.append(name)
        if name == point and passed.count(name) == 1:
            raise Killed(name)

    monkeypatch.setattr(job, "failpoint", failpoint)
    return passed


@asynccontextmanager
async def opened(parts: Parts, hub: FakeHub) -> AsyncIterator[JobHouse]:
    house = JobHouse(parts, hub)
    await house.open()
    try:
        yield house
    finally:
        await house.close()
