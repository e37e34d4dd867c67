"""Docker Engine keeps the engines' contract, with real containers of the base image.

The image is `HIMALIA_TEST_IMAGE`, or the newest `himalia/base` that this engine has.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from docker_cleanup import clear
from engine.contract import EngineContract, Program, Rig, build, everything, packed, seen, until
from himalia_services.engines.docker import DockerEngine, Site
from himalia_services.engines.docker.engine import PullFrom
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model.workload import Image, Input, Mount, Resources, Workload, WorkloadId
from himalia_services.snapshot.registry import Registry

pytestmark = pytest.mark.docker

COMMANDS: dict[Program, list[str]] = {
    "ends with 3": ["sh", "-c", "exit 3"],
    "waits": ["sh", "-c", "echo waiting; exec sleep 300"],
    "ignores TERM": ["sh", "-c", "trap '' TERM; echo ignoring; while :; do sleep 0.2; done"],
    "eats memory": ["tail", "/dev/zero"],
    "writes 10 MB": [
        "/opt/himalia/bin/python",
        "-c",
        "import sys; sys.stdout.buffer.write((bytes(range(256)) * 39063)[:10_000_000])",
    ],
    "says its input": [
        "bash",
        "-c",
        r"""LC_ALL=C; export LC_ALL; find . | sed 's,^\./,,' | sort | while read -r f; do
        if [ -f "$f" ]; then echo "$f $(stat -c %U "$f") $(cat "$f")"; else echo "$f $(stat -c %U "$f")"; fi; done""",
    ],
    "makes files": ["sh", "-c", "echo made > made.txt; echo changed > main.py"],
}


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def image() -> Image:
    name = os.environ.get("HIMALIA_TEST_IMAGE") or docker("images", "-q", "himalia/base").split("\n")[0]
    if not name:
        pytest.fail("There is no himalia/base image here: run `make up` or images/build.py once.")
    id = docker("image", "inspect", "-f", "{{.Id}}", name)
    return Image(repository="himalia/base", digest=id, config_digest=id)


@dataclass
class Counting:
    """What lies between the engine and Docker's socket in these tests: it counts requests, and cuts the line where it is told to."""

    left: int | None = None
    after: bool = False
    count: int = 0


class CutDocker(aiodocker.Docker):
    """A connection that breaks before or behind a request."""

    def __init__(self, cut: Counting) -> None:
        super().__init__()
        self.cut = cut

    async def _do_query(self, *arguments: Any, **named: Any) -> Any:
        await self._check_own_version()
        cut = self.cut
        cut.count += 1
        here = cut.left is not None and cut.count > cut.left
        if here and not cut.after:
            raise aiodocker.DockerError(900, "cut before")
        response = await super()._do_query(*arguments, **named)
        if here:
            response.close()
            raise aiodocker.DockerError(900, "cut behind")
        return response

    async def _check_own_version(self) -> None:
        if self.api_version == "auto":
            self.api_version = "v1.41"


class EmptyRegistry(BaseHTTPRequestHandler):
    """A registry that has nothing."""

    def do_GET(self) -> None:
        there = self.path == "/v2/"
        body = b"{}" if there else b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


class DockerRig(Rig):
    def __init__(self, home: Path, image: Image) -> None:
        instance = str(uuid.uuid4())
        prefix = f"himalia-{instance[:8]}"
        self.home = home
        self.image = image
        self.site = Site(instance=instance, prefix=prefix, network=prefix, runs=home / instance[:8])
        self.registry = ThreadingHTTPServer(("127.0.0.1", 0), EmptyRegistry)
        threading.Thread(target=self.registry.serve_forever, daemon=True).start()
        self.engine = self._over(aiodocker.Docker(), port=self.registry.server_port)
        self.others: list[DockerRig] = []
        docker("network", "create", "--label", f"himalia.instance={instance}", prefix)
        self.heard = home / f"{instance[:8]}-starts"
        self.listener = self._listen()

    def _over(self, docker: aiodocker.Docker, port: int = 9) -> DockerEngine:
        pull_from = PullFrom(host=f"127.0.0.1:{port}", username="nobody", password="none")
        return DockerEngine(docker, self.site, registry=Registry("http://127.0.0.1:9"), pull_from=pull_from)

    def workload(
        self, program: Program, *, id: WorkloadId | None = None, input: Input | None = None, count: int = 1
    ) -> Workload:
        spec = {"argv": COMMANDS[program], "cwd": input.path if input else "/", "env": {}, "kind": "command"}
        return build(program, self.image, spec, id=id, input=input, count=count)

    async def another(self) -> Rig:
        other = DockerRig(self.home, self.image)
        self.others.append(other)
        return other

    async def starts(self, id: WorkloadId) -> int:
        name = f"{self.site.prefix}-{id}-r0"
        found = subprocess.run(  # noqa: ASYNC221
            ["docker", "inspect", "-f", "{{.State.StartedAt}}", name], capture_output=True, text=True
        )
        ran = found.returncode == 0 and not found.stdout.startswith("0001-")

        async def heard() -> int | None:
            count = self.heard.read_text().split().count(name)
            return count if count or not ran else None

        return await until(heard, f"the start of {name} is heard of")

    def points(self, workload: Workload) -> int:
        return 2 * 6  # image, inspect, create, input, start, and one more to see it through; before and behind each

    async def interrupted(self, workload: Workload, point: int) -> None:
        cut = Counting(left=point // 2, after=point % 2 == 1)
        broken = self._over(CutDocker(cut))
        try:
            if point // 2 < 5:
                with pytest.raises(EngineUnavailable):
                    await broken.apply(workload)
            else:
                await broken.apply(workload)
                assert cut.count == 5, "apply asks Docker more often than this test cuts it off"
        finally:
            await broken.aclose()

    async def remains(self, id: WorkloadId) -> list[str]:
        filters = (
            "--filter",
            f"label=himalia.instance={self.site.instance}",
            "--filter",
            f"label=himalia.workload={id}",
        )
        folder = self.site.runs / id
        found = docker("ps", "-aq", *filters).split() + docker("volume", "ls", "-q", *filters).split()
        return found + ([str(folder)] if folder.exists() else [])

    def _listen(self) -> subprocess.Popen[bytes]:
        """Every start of a worker of ours, by its container's name; the daemon itself remembers few."""
        since = docker("info", "-f", "{{.SystemTime}}")
        filters = ("--filter", "event=start", "--filter", f"label=himalia.instance={self.site.instance}")
        with self.heard.open("wb") as file:
            return subprocess.Popen(
                ["docker", "events", "--since", since, *filters, "--format", "{{.Actor.Attributes.name}}"], stdout=file
            )

    async def aclose(self) -> None:
        self.listener.terminate()
        self.listener.wait()
        for other in self.others:
            await other.aclose()
        clear(f"himalia.instance={self.site.instance}")
        await self.engine.aclose()
        self.registry.shutdown()
        self.registry.server_close()
        shutil.rmtree(self.site.runs, ignore_errors=True)


@pytest.fixture(scope="module")
def base() -> Image:
    return image()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


class TestDocker(EngineContract):
    @pytest.fixture
    async def rig(self, folder: Path, base: Image) -> AsyncIterator[DockerRig]:
        rig = DockerRig(folder, base)
        try:
            yield rig
        finally:
            await rig.aclose()

    async def check_volume(self, rig: Rig, name: str) -> None:
        assert isinstance(rig, DockerRig)
        marks = docker("volume", "inspect", "-f", "{{json .Labels}}", name)
        assert '"himalia.kind":"home"' in marks
        assert rig.site.instance in marks
        assert docker("ps", "-aq", "--filter", f"label=himalia.instance={rig.site.instance}") == ""
        owner = docker(
            "run", "--rm", "--entrypoint", "stat", "-v", f"{name}:/v", rig.image.config_digest, "-c", "%u:%g %a", "/v"
        )
        assert owner == "1000:1000 755"

    async def test_a_volume_whose_making_was_cut_off_is_finished_by_the_next_call(self, rig: DockerRig) -> None:
        for point in range(10):
            name = f"himalia-test-{secrets.token_hex(4)}-home"
            broken = rig._over(CutDocker(Counting(left=point // 2, after=point % 2 == 1)))
            try:
                with pytest.raises(EngineUnavailable):
                    await broken.ensure_volume(name, labels={"himalia.kind": "home"})
            finally:
                await broken.aclose()
            await rig.engine.ensure_volume(name, labels={"himalia.kind": "home"})
            await self.check_volume(rig, name)

    async def test_a_job_sees_nothing_of_ours_in_its_env_and_has_no_dangerous_capability(self, rig: DockerRig) -> None:
        workload = rig.workload("ends with 3")
        await rig.engine.apply(workload)
        name = f"{rig.site.prefix}-{workload.id}-r0"
        env = docker("inspect", "-f", "{{json .Config.Env}}", name)
        assert "HIMALIA" not in env
        assert "TOKEN" not in env
        assert (
            docker("inspect", "-f", "{{json .HostConfig.CapDrop}}", name)
            == '["AUDIT_WRITE","MKNOD","NET_RAW","SYS_CHROOT"]'
        )

    async def test_a_link_that_a_job_puts_in_place_of_its_log_or_record_is_not_followed(
        self, rig: DockerRig, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text('{"exit_code": 0}')
        run = rig.site.runs / "job-000000000000-a1" / "0"
        run.mkdir(parents=True)
        for name in ("log", "result.json"):
            (run / name).symlink_to(secret)
        id = WorkloadId("job-000000000000-a1")
        assert [chunk async for chunk in rig.engine.logs(id)] == []
        assert await rig.engine.result(id) is None
        for name in ("log", "result.json"):
            (run / name).unlink()
            os.mkfifo(run / name)
        assert [chunk async for chunk in rig.engine.logs(id)] == []
        assert await rig.engine.result(id) is None
        await rig.engine.remove(id)

    async def test_what_is_left_of_a_removal_that_was_cut_off_is_still_seen(self, rig: DockerRig) -> None:
        workload = rig.workload("ends with 3", input=Input(pack=None, path="/job/work"))
        await rig.engine.apply(workload)
        docker("rm", "-f", f"{rig.site.prefix}-{workload.id}-r0")
        assert (await rig.engine.observe())[workload.id].workers == {}
        await rig.engine.remove(workload.id)
        assert await rig.remains(workload.id) == []

    async def test_a_registry_that_does_not_answer_is_asked_again_later(self, rig: DockerRig) -> None:
        engine = rig._over(aiodocker.Docker())
        missing = Image(repository="env/x", digest="sha256:" + "0" * 64, config_digest="sha256:" + "1" * 64)
        try:
            with pytest.raises(EngineUnavailable, match="cannot be fetched now"):
                await engine.apply(replace(rig.workload("waits"), image=missing))
        finally:
            await engine.aclose()

    async def test_a_container_that_docker_cannot_start_is_an_error_with_its_reason(self, rig: DockerRig) -> None:
        workload = build(
            "ends with 3", rig.image, {"argv": ["true"], "cwd": "/"}, input=Input(pack=None, path="/proc/nowhere")
        )
        with pytest.raises(EngineError) as caught:
            await rig.engine.apply(workload)
        assert caught.value.reason == "start_failed"
        assert "Docker" in caught.value.detail

    async def test_a_project_folder_where_home_has_a_link_fills_the_volume_and_leaves_the_link(
        self, rig: DockerRig, tmp_path: Path
    ) -> None:
        home = f"himalia-test-{secrets.token_hex(4)}-home"
        await rig.engine.ensure_volume(home, labels={"himalia.kind": "home"})
        docker(
            "run",
            "--rm",
            "--entrypoint",
            "sh",
            "-v",
            f"{home}:/h",
            rig.image.config_digest,
            "-c",
            "mkdir /h/real; ln -s real /h/project",
        )
        workload = Workload(
            id=WorkloadId(f"job-{secrets.token_hex(6)}-a1"),
            image=rig.image,
            verb="job",
            spec={"argv": ["cat", "main.py"], "cwd": "/home/jovyan/project"},
            resources=Resources(cpu=1, memory_bytes=rig.memory_bytes),
            mounts=(Mount(source=home, target="/home/jovyan"),),
            input=Input(pack=packed(tmp_path, {"main.py": b"packed"}), path="/home/jovyan/project"),
        )
        await rig.engine.apply(workload)
        assert (await seen(rig.engine, workload.id, "exited")).exit_code == 0
        assert await everything(rig.engine.logs(workload.id)) == b"packed"
        await rig.engine.remove(workload.id)
        left = docker(
            "run",
            "--rm",
            "--entrypoint",
            "sh",
            "-v",
            f"{home}:/h",
            rig.image.config_digest,
            "-c",
            "readlink /h/project; ls /h/real",
        )
        assert left == "real"
