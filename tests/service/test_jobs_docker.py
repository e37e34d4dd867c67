"""Jobs in real containers of the base image: what a person's program finds, and what comes back of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiodocker
import pytest

from docker_cleanup import clear
from engine.test_contract_docker import docker, image
from himalia_services.control import preset
from himalia_services.engines.docker import DockerEngine, Site
from himalia_services.engines.docker.engine import PullFrom
from himalia_services.parts import Parts
from himalia_services.reconcile import loop
from himalia_services.settings import Settings
from himalia_services.snapshot.registry import Registry
from service.fakehub import FakeHub
from service.house import Json, eventually
from service.jobhouse import FOLDER, JobHouse, digest, packed, statuses

pytestmark = pytest.mark.docker

OVER = ("Succeeded", "Failed", "Stopped")


class DockerHouse(JobHouse):
    async def build(self, mark: str = "a") -> None:
        found = image()
        entry = {"repository": found.repository, "digest": f"sha256:{mark * 64}", "config_digest": found.config_digest}
        self.parts.settings.built.write_text(json.dumps({"base": entry}))
        await preset.refresh(self.parts.db, self.parts.settings, self.parts.catalog)

    async def ends(self, id: str, who: str = "ada") -> Json:
        return await eventually(lambda: self.job(id, who), lambda seen: seen["status"] in OVER, within=120)

    async def ran(self, line: str = "", /, **more: object) -> Json:
        body = {"command": ["bash", "-c", line], **more} if line else more
        return await self.ends((await self.submit(**body))["id"])  # type: ignore[arg-type]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """An installation of its own: others may test on this Docker at the same time."""
    (settings.home / "instance").write_text(f"{uuid.uuid4()}\n")
    return settings


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[DockerEngine]:
    site = Site(
        instance=settings.instance, prefix=settings.prefix, network=settings.network, runs=settings.workloads_run
    )
    docker("network", "create", "--label", f"himalia.instance={settings.instance}", site.network)
    engine = DockerEngine(
        aiodocker.Docker(),
        site,
        registry=Registry("http://127.0.0.1:9"),
        pull_from=PullFrom(host="127.0.0.1:9", username="nobody", password="none"),
    )
    yield engine
    await engine.aclose()
    clear(f"himalia.instance={settings.instance}")


@pytest.fixture
async def house(parts: Parts, hub: FakeHub, engine: DockerEngine) -> AsyncIterator[DockerHouse]:
    small = [replace(machine, memory_bytes=400 << 20) for machine in parts.catalog.machines]
    house = DockerHouse(replace(parts, catalog=replace(parts.catalog, machines=tuple(small))), hub)
    house._run(replace(house.parts, engine=engine))  # the house itself starts with a scripted one
    await house.open()
    working = asyncio.create_task(loop.run(house.parts))
    yield house
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await house.close()


TRAIN = b"""
import os, pathlib, sys
import helper
print("here", os.getcwd(), "prefix", sys.prefix, "user", os.getuid())
print("data", pathlib.Path("data/in.txt").read_text(), "above", pathlib.Path("../beside.txt").read_text())
print("live", os.path.isdir("/run/himalia/live/home"), os.path.isdir("/run/himalia/live/shared/vision"))
pathlib.Path("model.bin").write_bytes(b"\\0" * 100)
pathlib.Path("train.py").write_text("# changed by itself")
pathlib.Path(os.path.expanduser("~/left-in-home.txt")).write_text(helper.WORD)
"""


async def test_a_script_finds_its_folder_over_home_and_its_outputs_come_back(house: DockerHouse) -> None:
    first = await house.ran("echo above > ~/beside.txt; id -un; touch ~/shared/vision/mine")
    assert first["status"] == "Succeeded", await house.log(first["id"])
    assert await house.log(first["id"]) == "jovyan\n"
    done = await house.ran(
        files={"train.py": TRAIN, "helper.py": b"WORD = 'kept'\n", "data/in.txt": b"in"},
        kind="script",
        command=[],
        script="train.py",
    )
    log = await house.log(done["id"])
    assert done["status"] == "Succeeded", log
    assert f"here {FOLDER} prefix /opt/venv user 1000" in log
    assert "data in above above" in log
    assert "live True True" in log
    assert await house.outputs(done["id"]) == {
        "model.bin": ("new", bytes(100)),
        "train.py": ("changed", b"# changed by itself"),
    }
    assert statuses(done) == ["Creating", "Queuing", "EnvPreparing", "Running", "Succeeded"]
    assert await house.log((await house.ran("cat ~/left-in-home.txt"))["id"]) == "kept"


async def test_a_kill_for_memory_is_said_and_what_was_made_before_comes_back(house: DockerHouse) -> None:
    done = await house.ran("echo half > half.txt; echo said; exec tail /dev/zero", machine="small")
    assert (done["status"], done["reason_code"]) == ("Failed", "out_of_memory"), done
    assert await house.outputs(done["id"]) == {"half.txt": ("new", b"half\n")}
    assert (await house.log(done["id"])).startswith("said\n")


async def test_a_notebook_at_homes_root_runs_with_its_parameters_in_the_users_environment(house: DockerHouse) -> None:
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "source": "n = 1",
                "outputs": [],
                "execution_count": None,
            },
            {
                "cell_type": "code",
                "metadata": {},
                "source": "import sys; print(sys.prefix, n + 1)",
                "outputs": [],
                "execution_count": None,
            },
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    pack = packed({"fit.ipynb": json.dumps(notebook).encode()})
    assert (await house.upload("ada", pack)).status_code == 200
    done = await house.ran(
        kind="notebook",
        command=[],
        notebook="fit.ipynb",
        parameters={"n": 41},
        input={"digest": digest(pack), "path": "/home/jovyan"},
    )
    log = await house.log(done["id"])
    assert done["status"] == "Succeeded", log
    assert "/opt/venv 42" in log
    outputs = await house.outputs(done["id"])
    assert outputs["fit.ipynb"][0] == "changed"
    assert b"/opt/venv 42" in outputs["fit.ipynb"][1]


async def test_stop_ends_it_with_what_it_made_and_the_time_limit_too(house: DockerHouse) -> None:
    made = await house.submit(command=["bash", "-c", "echo begun; echo half > half.txt; sleep 300"])
    await eventually(lambda: house.log(made["id"]), lambda log: "begun" in log, within=60)
    await house.ask("ada", "POST", f"/jobs/{made['id']}/stop")
    done = await house.ends(made["id"])
    assert (done["status"], done["reason_code"], done["exit_code"]) == ("Stopped", "stopped_by_user", 143)
    assert await house.outputs(done["id"]) == {"half.txt": ("new", b"half\n")}
    limited = await house.ran("sleep 300", max_run_seconds=1)
    assert (limited["status"], limited["reason_code"]) == ("Failed", "max_duration_exceeded")


async def test_a_command_that_is_not_there_is_said_in_the_runners_words(house: DockerHouse) -> None:
    done = await house.ran(command=["pyhton", "train.py"])
    assert (done["status"], done["reason_code"]) == ("Failed", "start_failed")
    assert "pyhton" in done["reason_message"]


async def test_a_program_that_puts_links_in_place_of_its_log_and_outputs_gets_nothing_of_the_host(
    house: DockerHouse, tmp_path: Path
) -> None:
    secret = house.parts.settings.home / "secrets" / "seal"
    done = await house.ran(
        f"sudo ln -sf {secret} /run/himalia/workload/log; ln -s {secret} link; ln -s /etc/shadow shadow; echo x > real"
    )
    assert done["status"] == "Succeeded"
    assert await house.log(done["id"]) == ""
    assert list(await house.outputs(done["id"])) == ["real"]

    async def left() -> str:
        return docker("ps", "-aq", "--filter", f"label=himalia.workload={done['id']}-a1")

    await eventually(left, lambda containers: containers == "")
