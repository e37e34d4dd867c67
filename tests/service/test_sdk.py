"""The SDK and the command line against the real control plane: its API on a port, its reconcilers at work, engine and hub by script."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from himalia import errors
from himalia.client import Himalia
from himalia.job import Job, exit_status
from himalia.login import Login
from himalia_services.app import create_app
from himalia_services.engines.fake import Ends, Runs, unpack
from himalia_services.model.workload import WorkloadId
from himalia_services.parts import Parts
from himalia_services.reconcile import loop
from service.fakehub import FakeHub
from service.house import NO_BOOT, House, opened
from service.serving import serving

T = TypeVar("T")


@pytest.fixture
async def house(parts: Parts, hub: FakeHub) -> AsyncIterator[House]:
    async with opened(parts, hub) as house:
        yield house


@pytest.fixture
async def url(house: House) -> AsyncIterator[str]:
    """The service's address; the control plane behind it works by itself."""
    app = create_app(house.parts)
    reconcilers = asyncio.create_task(loop.run(house.parts))
    async with serving(app) as origin:
        yield f"{origin}/services/himalia"
        app.state.closing.set()
    reconcilers.cancel()
    await asyncio.gather(reconcilers, return_exceptions=True)


@pytest.fixture
async def ada(house: House, url: str) -> AsyncIterator[Himalia]:
    with Himalia(Login(url, house.token("ada"), "argument"), environ={}) as himalia:
        yield himalia


@pytest.fixture
async def ben(house: House, url: str) -> AsyncIterator[Himalia]:
    with Himalia(Login(url, house.token("ben"), "argument"), environ={}) as himalia:
        yield himalia


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path.resolve() / "people/ada"
    work = home / "digits"
    (work / "data").mkdir(parents=True)
    (work / "train.py").write_text("print('as submitted')")
    (work / "data/x.csv").write_text("1,2")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("HIMALIA_WORKSPACE", raising=False)
    monkeypatch.chdir(work)
    return work


async def blocking(call: Callable[..., T], *args: Any, **more: Any) -> T:
    """Programs of people block; the control plane goes on beside them."""
    return await asyncio.to_thread(lambda: call(*args, **more))


async def saved(house: House, ada: Himalia, **more: Any) -> Any:
    plan = await house.started("ada")
    workspace = await blocking(lambda: ada.workspaces.get(plan["workspace_id"]))
    return await blocking(workspace.save, "vision", **more)


async def running(house: House, job: Job) -> WorkloadId:
    """A job's workload, once it runs."""
    id = WorkloadId(f"{job.id}-a1")
    await blocking(_until_running, job)
    assert id in house.engine.workloads
    return id


def _until_running(job: Job) -> None:
    from himalia._wait import until

    until(
        job.refresh,
        lambda j: j.status == "Running",
        timeout=20,
        key=lambda j: j.status,
        complaint=lambda j: f"{j.id} is {j.status}",
    )


async def test_who_i_am_and_what_machines_there_are(ada: Himalia) -> None:
    me = await blocking(ada.me)
    assert (me.name, me.admin, me.groups) == ("ada", False, ["vision"])
    assert {machine.name for machine in await blocking(ada.machines)} >= {"small"}


async def test_a_save_is_watched_through_its_phases(house: House, ada: Himalia) -> None:
    seen: list[str] = []
    version = await saved(house, ada, note="with scikit-learn", progress=lambda v: seen.append(v.phase))
    assert (version.ref, version.phase, version.note) == ("ada/vision:1", "Saved", "with scikit-learn")
    assert seen[-1] == "Saved"
    packages = await blocking(lambda: ada.environments.get("vision").packages())
    assert [(p.name, p.version) for p in packages.pip] == [("numpy", "2.3.0")]


async def test_a_save_that_does_not_boot_is_an_error_with_its_reason(house: House, ada: Himalia) -> None:
    house.engine.scripts["boot-check"] = Ends(result=NO_BOOT)
    with pytest.raises(errors.SaveFailed, match="The server did not answer") as caught:
        await saved(house, ada)
    assert caught.value.code == "boot_check"


async def test_an_environment_is_shared_and_taken_back(house: House, ada: Himalia, ben: Himalia) -> None:
    await saved(house, ada)
    with pytest.raises(errors.NotFound):
        await blocking(ben.environments.get, "ada/vision")
    mine = await blocking(ada.environments.get, "vision")
    await blocking(mine.share, group="vision")
    theirs = await blocking(ben.environments.get, "ada/vision")
    assert (theirs.info.mine, "run as you" in theirs.info.runs_as_you) == (False, True)
    with pytest.raises(errors.Forbidden):
        await blocking(theirs.share, everyone=True)
    await blocking(mine.unshare)
    with pytest.raises(errors.NotFound):
        await blocking(ben.environments.get, "ada/vision")


async def test_a_named_workspace_is_made_listed_and_deleted(house: House, ada: Himalia) -> None:
    made = await blocking(ada.workspaces.create, "second", display_name="The second one")
    assert [w.name for w in await blocking(ada.workspaces.list)] == ["second"]
    assert (await blocking(ada.workspaces.get, "second")).id == made.id
    with pytest.raises(errors.Invalid, match="cannot be a workspace's name"):
        await blocking(ada.workspaces.create, "No Name")


async def test_a_job_runs_what_was_submitted_streams_its_log_and_gives_its_outputs_back(
    house: House, ada: Himalia, work: Path
) -> None:
    house.engine.scripts["job"] = Runs()
    await saved(house, ada)
    job = await blocking(ada.jobs.submit, "train.py", environment="vision", machine="small", args=["--lr", "3"])
    (work / "train.py").write_text("print('edited afterwards')")
    id = await running(house, job)
    workload = house.engine.workloads[id]
    assert unpack(workload.pack) == {"train.py": b"print('as submitted')", "data/x.csv": b"1,2"}
    assert workload.workload.spec["argv"] == ["python", "train.py", "--lr", "3"]
    assert workload.workload.spec["cwd"] == "/job/digits"

    pieces: asyncio.Queue[str] = asyncio.Queue()
    here = asyncio.get_running_loop()

    def follow() -> None:
        for text in job.logs():
            here.call_soon_threadsafe(pieces.put_nowait, text)

    following = asyncio.create_task(blocking(follow))
    house.engine.write(id, b"score ")
    assert await asyncio.wait_for(pieces.get(), 20) == "score "
    house.engine.write(id, "0.97 ✓\n".encode(), {"model.bin": b"weights", "train.py": b"formatted"})
    house.engine.finish(id, 0)
    await asyncio.wait_for(following, 20)
    rest = "".join(pieces.get_nowait() for _ in range(pieces.qsize()))
    assert rest == "0.97 ✓\n"

    await blocking(job.wait, check=True)
    assert exit_status(job.info) == 0
    assert await blocking(job.log) == "score 0.97 ✓\n"
    fetched = await blocking(job.fetch_outputs)
    # The script was edited after the submit, so the job's own idea of it does not replace it.
    assert (fetched.folder, fetched.written, fetched.kept) == (work, ["model.bin"], ["train.py"])
    assert (work / "model.bin").read_bytes() == b"weights"


async def test_a_job_in_somebody_elses_environment_runs_only_while_it_is_shared(
    house: House, ada: Himalia, ben: Himalia, work: Path
) -> None:
    house.engine.scripts["job"] = Ends(3, log=b"no\n")
    version = await saved(house, ada)
    with pytest.raises(errors.NotFound):
        await blocking(ben.jobs.submit, "train.py", environment="ada/vision")
    await blocking((await blocking(ada.environments.get, "vision")).share, people=["ben"])
    job = await blocking(ben.jobs.submit, "train.py", environment="ada/vision")
    await blocking(job.wait)
    assert (job.status, job.exit_code, exit_status(job.info), job.info.digest) == ("Failed", 3, 3, version.digest)
    with pytest.raises(errors.JobFailed, match="exit code 3"):
        await blocking(job.wait, check=True)
    with pytest.raises(errors.NotFound):
        await blocking(ada.jobs.get, job.id)


async def test_a_job_is_stopped_and_deleted(house: House, ada: Himalia, work: Path) -> None:
    house.engine.scripts["job"] = Runs()
    await saved(house, ada)
    job = await blocking(ada.jobs.submit, command="sleep 1000", environment="vision")
    id = await running(house, job)
    assert house.engine.workloads[id].workload.spec["argv"] == ["bash", "-c", "sleep 1000"]
    await blocking(job.stop)
    await blocking(job.wait, timeout=30)
    assert job.status == "Stopped"
    await blocking(job.delete)
    with pytest.raises(errors.NotFound):
        await blocking(ada.jobs.get, job.id)
    assert await blocking(ada.jobs.list) == []


async def test_a_folder_the_platform_has_is_uploaded_once(house: House, ada: Himalia, work: Path) -> None:
    house.engine.scripts["job"] = Ends()
    await saved(house, ada)
    sent: list[str] = []
    call = ada.connection.call

    def counted(method: str, path: str, **more: Any) -> Any:
        sent.append(method)
        return call(method, path, **more)

    ada.connection.call = counted  # type: ignore[method-assign]
    await blocking(ada.jobs.submit, "train.py", environment="vision")
    await blocking(ada.jobs.submit, "train.py", environment="vision")
    assert [method for method in sent if method in ("HEAD", "PUT")] == ["HEAD", "PUT", "HEAD"]


@pytest.mark.parametrize(("code", "meant"), [(0, 0), (3, 3), (137, 137)])
async def test_the_command_waits_and_ends_with_the_jobs_exit_code(
    house: House, ada: Himalia, url: str, work: Path, code: int, meant: int
) -> None:
    house.engine.scripts["job"] = Ends(code, log=b"score 0.97\n")
    await saved(house, ada)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(work.parent), "HIMALIA_URL": url, "HIMALIA_TOKEN": house.token("ada")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from himalia.cli import main; main()", "job", "submit", "train.py", "-e", "vision", "--wait"),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out) == (meant, b"score 0.97\n"), err.decode()
    assert err.decode().startswith("packed 2 files, ")


async def test_the_command_says_json_about_what_there_is(house: House, ada: Himalia, url: str, work: Path) -> None:
    await saved(house, ada)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(work.parent), "HIMALIA_URL": url, "HIMALIA_TOKEN": house.token("ada")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from himalia.cli import main; main()", "env", "list", "--json"),
        env=env,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert {environment["ref"] for environment in json.loads(out)} == {"ada/vision", "himalia/base"}
