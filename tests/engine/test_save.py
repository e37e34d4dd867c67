"""Saving containers of a real Docker Engine into a real registry, and what comes out of the image again."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiodocker
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.registry import PASSWORD, USER, RunningRegistry, docker, mini_image, running_registry
from himalia_services.engines.docker.save import save
from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.model.workload import Image, ImageTarget, Saved, WorkspaceRef
from himalia_services.snapshot import save as snapshot
from himalia_services.snapshot.capture import Request
from himalia_services.snapshot.registry import Registry

pytestmark = pytest.mark.docker

TREE = Path(__file__).with_name("tree.py").read_text()
PREFIX = f"himalia-test-save-{uuid.uuid4().hex[:6]}"

#: Version 2 capability of a file: cap_net_bind_service, effective and permitted.
CAPABILITY = "0100000200040000000000000000000000000000"
TIME = 1_700_000_000_123_456_789

FIXED: list[list[object]] = [
    ["file", "/opt/plain", "content", 3, 0o644, 1000, TIME],
    ["file", "/opt/setuid", "#!", 1, 0o4755, 0, 1],
    ["file", "/opt/old", "x", 1, 0o600, 5, 1_000_000_000],
    ["file", "/opt/owner", "x", 1, 0o600, 3_000_000, TIME],
    ["file", "/opt/empty", "", 1, 0o000, 0, TIME],
    ["file", "/opt/large", "0123456789abcdef", 300_000, 0o644, 0, TIME],
    ["sparse", "/opt/sparse", 3_000_000],
    ["folder", "/opt/" + "l" * 120, 0o1777, 7],
    ["file", "/opt/" + "l" * 120 + "/" + "m" * 200, "long", 1, 0o644, 0, TIME],
    ["file", "/opt/üñî—漢字", "names", 1, 0o644, 0, TIME],
    ["file", "/opt/not\udcff\udcfetext", "bytes", 1, 0o644, 0, TIME],
    ["file", "/opt/a\nline = 3", "odd", 1, 0o644, 0, TIME],
    ["symlink", "nowhere/" + "t" * 130, "/opt/long-link"],
    ["symlink", "../base/file1", "/opt/link"],
    ["link", "/opt/plain", "/opt/zz-second-name"],
    ["link", "/opt/setuid", "/opt/another-name"],
    ["link", "/opt/link", "/opt/link-of-link"],
    ["fifo", "/opt/fifo", 0o620],
    ["attribute", "/opt/plain", "user.color", "00ff00"],
    ["attribute", "/opt", "user.folder", "01"],
    ["attribute", "/opt/another-name", "security.capability", CAPABILITY],
    ["socket", "/opt/socket"],
    ["file", "/opt/.wh.mine", "cannot be stored", 1, 0o644, 0, TIME],
    ["folder", "/opt/.wh.folder", 0o755, 0],
    ["file", "/opt/.wh.folder/inside", "neither", 1, 0o644, 0, TIME],
    ["remove", "/base/file5"],
    ["remove", "/base/gone"],
    ["remove", "/base/folder"],
    ["folder", "/base/folder", 0o700, 1000],
    ["file", "/base/folder/new", "opaque", 1, 0o644, 0, TIME],
    ["link", "/base/file7", "/base/folder/of-the-base"],
    ["append", "/base/file0", "one of two names in the base"],
    ["chmod", "/base/file8", 0o751],
    ["chown", "/base/link", 1000],
    ["rename", "/base/file9", "/base/renamed"],
    ["remove", "/base/file10"],
    ["folder", "/base/file10", 0o755, 0],
    ["file", "/etc/mine", "x", 1, 0o644, 0, TIME],
    ["file", "/run/volatile", "x", 1, 0o644, 0, TIME],
    ["file", "/tmp/kept", "x", 1, 0o644, 0, TIME],
]


@pytest.fixture(scope="module")
def registry() -> Iterator[RunningRegistry]:
    with running_registry(f"{PREFIX}-registry") as running:
        yield running


@pytest.fixture(scope="module")
def base(registry: RunningRegistry) -> Image:
    return registry.push(mini_image(), "himalia/mini")


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    """Containers and images of ours go with the module."""
    before = saved_images()
    yield
    for container in docker("ps", "--all", "--quiet", "--filter", f"name={PREFIX}").split():
        docker("rm", "--force", "--volumes", container)
    while made := saved_images() - before:
        gone = [
            image for image in made if subprocess.run(["docker", "rmi", image], capture_output=True).returncode == 0
        ]
        assert gone, f"images of saves cannot be removed: {made}"


def saved_images() -> set[str]:
    """Those of this engine that stand on the tests' image, which has the label."""
    return set(docker("images", "--all", "--quiet", "--no-trunc", "--filter", "label=test.of=the-base").split())


@pytest.fixture
async def engine() -> AsyncIterator[aiodocker.Docker]:
    async with aiodocker.Docker() as client:
        yield client


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


class Workspace:
    """A container to save."""

    def __init__(self, image: str, *options: str) -> None:
        self.name = f"{PREFIX}-{uuid.uuid4().hex[:8]}"
        docker("run", "--detach", "--name", self.name, "--network", "none", *options, image)

    @property
    def ref(self) -> WorkspaceRef:
        return WorkspaceRef(id="ws-test", container=self.name)

    def make(self, operations: list[list[object]]) -> int:
        return int(self._python("make", json.dumps(operations).encode()))

    def listing(self) -> dict[str, Any]:
        return json.loads(self._python("list", b""))

    def sh(self, command: str) -> str:
        return docker("exec", self.name, "sh", "-c", command)

    def stop(self) -> None:
        docker("kill", self.name)

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name)

    def is_frozen(self) -> bool:
        """By what the kernel says of the container's own process."""
        pid = docker("inspect", "--format", "{{.State.Pid}}", self.name)
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            if "freezer" in controllers.split(","):
                return Path(f"/sys/fs/cgroup/freezer{group}/freezer.state").read_text().strip() != "THAWED"
            if number == "0" and (events := Path(f"/sys/fs/cgroup{group}/cgroup.events")).exists():
                return "frozen 1" in events.read_text()
        return False

    def _python(self, verb: str, stdin: bytes) -> str:
        command = ["docker", "exec", "--interactive", self.name, "/opt/himalia/bin/python", "-c", TREE, verb]
        ended = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr.decode(errors="replace")
        return ended.stdout.decode()


@pytest.fixture
def workspace(base: Image) -> Iterator[Workspace]:
    own = Workspace(base.config_digest)
    yield own
    own.remove()


def target(base: Image, name: str = "") -> ImageTarget:
    return ImageTarget(repository=f"env/ada/{name or uuid.uuid4().hex[:8]}", tag="1", base=base)


def silent(phase: str, sent: int) -> None: ...


def listing_of(image: str) -> dict[str, Any]:
    again = Workspace(image)
    try:
        return again.listing()
    finally:
        again.remove()


def differences(left: dict[str, Any], right: dict[str, Any]) -> dict[bytes, tuple[Any, Any]]:
    names = left.keys() | right.keys()
    return {
        bytes.fromhex(name): (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)
    }


async def layer_of(client: Registry, saved: Saved) -> tarfile.TarFile:
    manifest = await client.manifest(saved.image.repository, saved.image.digest)
    blob = await client.blob(saved.image.repository, manifest.layers[-1]["digest"])
    return tarfile.open(fileobj=io.BytesIO(blob), mode="r:gz")


@pytest.mark.parametrize("state", ["running", "stopped", "paused"])
async def test_an_image_of_a_save_is_the_container(
    state: str, engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace, spool: Path
) -> None:
    assert workspace.make(FIXED) == 0
    before = workspace.listing()
    if state == "stopped":
        workspace.stop()
    if state == "paused":
        docker("pause", workspace.name)
    async with registry.client() as client:
        saved = await save(engine, client, workspace.ref, target(base), silent, spool=spool)
    if state == "paused":
        assert docker("inspect", "--format", "{{.State.Paused}}", workspace.name) == "true"
        docker("unpause", workspace.name)
    assert differences(before, listing_of(saved.image.config_digest)) == {}
    told = sorted(note.partition(":")[0] for note in saved.left_out)
    assert told == ["/opt/.wh.folder", "/opt/.wh.mine", "/opt/socket"]
    assert left_in(spool) == []


async def test_an_image_is_the_container_when_another_container_has_to_read_it(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace, spool: Path
) -> None:
    assert workspace.make(FIXED) == 0
    before = workspace.listing()
    async with registry.client() as client:
        saved = await save(engine, client, workspace.ref, target(base), silent, spool=spool, as_root=False)
        workspace.stop()
        again = await save(engine, client, workspace.ref, target(base), silent, spool=spool, as_root=False)
    assert differences(before, listing_of(saved.image.config_digest)) == {}
    assert differences(before, listing_of(again.image.config_digest)) == {}
    assert left_in(spool) == []
    assert docker("ps", "--all", "--quiet", "--filter", "label=himalia.kind=save") == ""


NAMES = st.sampled_from(["a", "b", "c", "dd", "file1", "file2", "folder", "deep", "ü", "x" * 101, "\udcff", ".wh.no"])
PATHS = st.builds(
    lambda top, parts: "/".join([top, *parts]),
    st.sampled_from(["/base", "/opt"]),
    st.lists(NAMES, min_size=1, max_size=3),
)
OPERATIONS = st.one_of(
    st.tuples(
        st.just("file"),
        PATHS,
        st.text("xyz", max_size=5),
        st.sampled_from([0, 1, 200_000]),
        st.sampled_from([0o644, 0o4711, 0]),
        st.sampled_from([0, 1000, 2_500_000]),
        st.integers(0, 4_000_000_000_000_000_000),
    ),
    st.tuples(st.just("folder"), PATHS, st.sampled_from([0o755, 0o1777, 0o2750]), st.sampled_from([0, 1000])),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("append"), PATHS, st.text("ab", min_size=1)),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o600, 0o6755])),
    st.tuples(
        st.just("attribute"), PATHS, st.sampled_from(["user.a", "user.b"]), st.sampled_from(["", "00", "ff" * 40])
    ),
    st.tuples(st.just("attribute"), PATHS, st.just("security.capability"), st.just(CAPABILITY)),
)


@settings(
    max_examples=int(os.environ.get("HIMALIA_TREES", "4")),
    deadline=None,
    derandomize="HIMALIA_TREES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(operations=st.lists(OPERATIONS, min_size=40, max_size=150))
def test_random_trees_survive_a_save(registry: RunningRegistry, base: Image, operations: list[Any]) -> None:
    workspace = Workspace(base.config_digest)
    try:
        workspace.make([["folder", "/opt/folder", 0o755, 0], *map(list, operations)])
        before = workspace.listing()
        saved = asyncio.run(_save_once(registry, workspace, base))
        assert differences(before, listing_of(saved.image.config_digest)) == {}
    finally:
        workspace.remove()


async def _save_once(registry: RunningRegistry, workspace: Workspace, base: Image) -> Saved:
    async with aiodocker.Docker() as engine, registry.client() as client:
        return await save(engine, client, workspace.ref, target(base), silent)


async def test_nothing_of_the_container_but_its_files_gets_into_the_image(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, tmp_path: Path
) -> None:
    secret = uuid.uuid4().hex
    mounted = tmp_path / "workspace"
    mounted.mkdir()
    (mounted / "environment.json").write_text(secret)
    workspace = Workspace(
        base.config_digest,
        *("--env", f"JUPYTERHUB_API_TOKEN={secret}", "--label", f"token={secret}", "--hostname", secret),
        *("--volume", f"{mounted}:/run/himalia/workspace:ro", "--volume", f"/home/jovyan/{secret}"),
    )
    try:
        workspace.make(
            [["folder", "/run/user", 0o700, 0], ["file", "/run/user/jpserver-1.json", secret, 1, 0o600, 0, TIME]]
        )
        workspace.make([["file", "/opt/one", "x", 1, 0o600, 0, TIME]])
        async with registry.client() as client:
            saved = await save(engine, client, workspace.ref, target(base), silent)
            manifest = await client.manifest(saved.image.repository, saved.image.digest)
            config = await client.blob(saved.image.repository, saved.image.config_digest)
            with await layer_of(client, saved) as layer:
                names = layer.getnames()
                contents = [layer.extractfile(member) for member in layer if member.isreg()]
                found = [name for name in names if secret in name]
                leaks = [file.name for file in contents if file is not None and secret.encode() in file.read()]
    finally:
        workspace.remove()
    assert (found, leaks) == ([], [])
    assert secret.encode() not in config + manifest.body
    ours = json.loads(config)
    theirs = json.loads(docker("inspect", base.config_digest))[0]["Config"]
    kept = ("Env", "Cmd", "Entrypoint", "Labels")
    assert {key: ours["config"].get(key) for key in kept} == {key: theirs[key] for key in kept}
    assert "container" not in ours
    assert "container_config" not in ours
    assert set(names) == {"opt", "opt/one", "home", "home/jovyan"}  # the engine made the last two to mount below them


class Counting(httpx.AsyncHTTPTransport):
    """Goes through, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, int]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        self.asked.append((request.method, request.url.raw_path.decode(), answer.status_code))
        return answer


async def test_the_base_is_mounted_and_only_one_layer_is_sent(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    workspace.make(FIXED[:1])
    counting = Counting()
    phases: list[tuple[str, int]] = []
    async with Registry(registry.url, (USER, PASSWORD), transport=counting) as client:
        saved = await save(engine, client, workspace.ref, target(base), lambda *told: phases.append(told))
        below = (await client.manifest(base.repository, base.digest)).layers
        manifest = await client.manifest(saved.image.repository, saved.image.digest)
    mounted = [
        path for method, path, status in counting.asked if "mount=" in path and (method, status) == ("POST", 201)
    ]
    sent = [path for method, path, _ in counting.asked if method == "PATCH"]
    assert len(mounted) == len(below)
    assert len(sent) == 1
    assert [layer["digest"] for layer in manifest.layers[:-1]] == [layer["digest"] for layer in below]
    assert saved.size_bytes == manifest.layers[-1]["size"]
    names = list(dict.fromkeys(phase for phase, _ in phases))
    assert names == ["Committing", "Pushing"]
    assert phases[-1][1] == saved.size_bytes


async def test_a_save_from_a_saved_environment_adds_one_layer(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    workspace.make([["file", "/opt/first", "1", 1, 0o644, 0, TIME], ["remove", "/base/file1"]])
    async with registry.client() as client:
        first = await save(engine, client, workspace.ref, target(base), silent)
        second = Workspace(first.image.config_digest)
        try:
            second.make([["file", "/opt/second", "2", 1, 0o644, 0, TIME], ["remove", "/opt/first"]])
            before = second.listing()
            again = await save(engine, client, second.ref, target(first.image), silent)
            with await layer_of(client, again) as layer:
                assert set(layer.getnames()) == {"opt", "opt/second", "opt/.wh.first"}
        finally:
            second.remove()
    assert again.layers == first.layers + 1
    assert differences(before, listing_of(again.image.config_digest)) == {}


async def test_a_saved_image_can_be_pulled_where_it_is_not(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    workspace.make(FIXED)
    before = workspace.listing()
    async with registry.client() as client:
        saved = await save(engine, client, workspace.ref, target(base), silent)
    docker("rmi", saved.image.config_digest)
    await engine.images.pull(
        f"{registry.host}/{saved.image.repository}@{saved.image.digest}",
        auth={"username": USER, "password": PASSWORD, "serveraddress": registry.host},
    )
    assert differences(before, listing_of(saved.image.config_digest)) == {}
    docker("rmi", f"{registry.host}/{saved.image.repository}@{saved.image.digest}")


WRITER = """
import os, threading, time
os.makedirs('/opt/pairs', exist_ok=True)
count = 0
while True:
    count += 1
    for name in ('first', 'second'):
        with open('/opt/pairs/' + name, 'a') as file:
            file.write(f'{count}\\n')
    open(f'/opt/pairs/{count % 50}', 'w').write(str(count) * 1000)
    os.path.exists(f'/opt/pairs/n{count - 40}') and os.remove(f'/opt/pairs/n{count - 40}')
    open(f'/opt/pairs/n{count}', 'w').close()
    time.sleep(0.0002)
"""

HEARTBEAT = """
import time
import os
longest, last = 0, time.monotonic()
open('/run/beating', 'w').close()
while not os.path.exists('/run/enough'):
    time.sleep(0.005)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(longest)
"""


async def test_a_save_under_writes_is_one_moment(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    workspace.make([["file", f"/opt/ballast{number}", "0123456789", 20_000, 0o644, 0, TIME] for number in range(50)])
    docker("exec", "--detach", workspace.name, "/opt/himalia/bin/python", "-c", WRITER)
    command = ["docker", "exec", workspace.name, "/opt/himalia/bin/python", "-c", HEARTBEAT]
    beat = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        await until(lambda: workspace.sh("cat /run/beating /opt/pairs/second 2>/dev/null || true").count("\n") > 50)
        async with registry.client() as client:
            for _ in range(3):
                saved = await save(engine, client, workspace.ref, target(base), silent)
                with await layer_of(client, saved) as layer:
                    read = {name: _lines_of(layer, f"opt/pairs/{name}") for name in ("first", "second")}
                assert len(read["first"]) - len(read["second"]) in (0, 1)
                assert read["second"] == read["first"][: len(read["second"])]
                assert saved.left_out == ()
    finally:
        workspace.sh("echo > /run/enough")
        longest, _ = beat.communicate(timeout=30)
    print(f"longest gap of a 5 ms heartbeat during three saves: {float(longest):.3f} s")


def _lines_of(layer: tarfile.TarFile, name: str) -> list[str]:
    file = layer.extractfile(name)
    assert file is not None
    lines = file.read().decode().splitlines()
    assert lines == [str(number + 1) for number in range(len(lines))]
    return lines


async def until(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


SAVER = """
import asyncio, json, sys
import aiodocker
from himalia_services.engines.docker.save import save
from himalia_services.model.workload import Image, ImageTarget, WorkspaceRef
from himalia_services.snapshot.registry import Registry

async def main(url, user, password, container, base, repository, spool, as_root):
    from pathlib import Path
    target = ImageTarget(repository=repository, tag="1", base=Image(**base))
    async with aiodocker.Docker() as docker, Registry(url, (user, password)) as registry:
        await save(docker, registry, WorkspaceRef(id="ws", container=container), target, print, spool=Path(spool), as_root=as_root)

asyncio.run(main(*json.load(sys.stdin)))
"""


@pytest.mark.parametrize(
    ("delay", "as_root"), [(0.0, True), (0.1, True), (0.2, True), (0.3, True), (0.5, True), (0.6, False), (1.2, False)]
)
async def test_a_saver_killed_at_any_moment_leaves_a_whole_image_or_none_and_nothing_frozen(
    delay: float, as_root: bool, registry: RunningRegistry, base: Image, workspace: Workspace, spool: Path
) -> None:
    workspace.make([["file", f"/opt/file{number}", "0123456789", 5000, 0o644, 0, TIME] for number in range(400)])
    docker("exec", "--detach", workspace.name, "/opt/himalia/bin/python", "-c", WRITER)
    to = target(base)
    told = [registry.url, USER, PASSWORD, workspace.name, vars(base), to.repository, str(spool), as_root]
    saver = subprocess.Popen([sys.executable, "-u", "-c", SAVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert saver.stdin is not None
    assert saver.stdout is not None
    with saver:
        saver.stdin.write(json.dumps(told).encode())
        saver.stdin.close()
        assert b"Committing" in saver.stdout.readline()
        await asyncio.sleep(delay)  # the moment of the kill is what is drawn here
        saver.send_signal(signal.SIGKILL)
    await until(lambda: not workspace.is_frozen(), 3)
    moved = workspace.sh("cat /opt/pairs/first").count("\n")
    await until(lambda: workspace.sh("cat /opt/pairs/first").count("\n") > moved)
    whole = registry.tags(to.repository)
    print(f"killed {delay} s into a save: {whole or 'no image'}")
    if whole:
        async with registry.client() as client:
            manifest = await client.manifest(to.repository, "1")
            for layer in manifest.layers:
                assert await client.has_blob(to.repository, layer["digest"])
    left = await asyncio.to_thread(left_in, spool)
    assert sum(path.stat().st_size for path in left if path.is_file()) == 0
    async with registry.client() as client, aiodocker.Docker() as engine:
        await save(engine, client, workspace.ref, to, silent, spool=spool)
    assert left_in(spool) == []


def left_in(spool: Path) -> list[Path]:
    """What saves that ended have left in their folder; aged, so that the next one may take it away."""
    if not spool.exists():
        return []
    for folder in spool.iterdir():
        os.utime(folder, (0, 0))
    return list(spool.rglob("*"))


class Refusing(httpx.AsyncHTTPTransport):
    """A registry that ends answering at one kind of request."""

    def __init__(self, method: str, part: str, status: int | None) -> None:
        super().__init__()
        self.method, self.part, self.status = method, part, status

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == self.method and self.part in str(request.url):
            if self.status is None:
                raise httpx.ConnectError("connection refused", request=request)
            return httpx.Response(self.status, json={"errors": [{"message": "no room"}]}, request=request)
        return await super().handle_async_request(request)


@pytest.mark.parametrize(
    ("method", "part", "status", "error"),
    [
        ("GET", "/manifests/", 404, EngineError),
        ("POST", "mount=", 400, EngineError),
        ("POST", "/blobs/uploads/", None, EngineUnavailable),
        ("PATCH", "/blobs/uploads/", 500, EngineUnavailable),
        ("PUT", "digest=", 400, EngineError),
        ("PUT", "/manifests/", 413, EngineError),
    ],
)
async def test_a_save_that_the_registry_refuses_changes_nothing(
    method: str,
    part: str,
    status: int | None,
    error: type[Exception],
    engine: aiodocker.Docker,
    registry: RunningRegistry,
    base: Image,
    workspace: Workspace,
    spool: Path,
) -> None:
    workspace.make(FIXED[:6])
    before = saved_images()
    to = target(base)
    refusing = Refusing(method, part, status)
    async with Registry(registry.url, (USER, PASSWORD), transport=refusing) as client:
        with pytest.raises(error) as raised:
            await save(engine, client, workspace.ref, to, silent, spool=spool)
    assert type(raised.value) is error
    assert str(raised.value).endswith(".")
    assert registry.tags(to.repository) == []
    assert saved_images() == before
    assert not workspace.is_frozen()
    assert left_in(spool) == []


@pytest.mark.root  # it reads the container's files itself
async def test_an_image_that_the_engine_cannot_take_is_not_in_the_registry_either(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace, spool: Path
) -> None:
    workspace.make(FIXED[:6])
    seen = json.loads(docker("inspect", workspace.name))[0]
    to = target(base)
    named: list[str] = []

    async def full(made: snapshot.Snapshot) -> None:
        while not named:
            named.extend(await asyncio.to_thread(registry.tags, to.repository))
        raise EngineError("No space left on the engine's disk.")

    request = Request(container=seen["Id"], pid=seen["State"]["Pid"], spool="")
    async with registry.client() as client:
        with pytest.raises(EngineError, match="No space left"):
            await snapshot.save(request, to, client, silent, load=full, spool=spool)
    assert named == ["1"]
    assert registry.tags(to.repository) == []
    assert left_in(spool) == []


async def test_a_container_of_another_image_is_refused(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    workspace.make([["file", "/opt/first", "1", 1, 0o644, 0, TIME]])
    async with registry.client() as client:
        first = await save(engine, client, workspace.ref, target(base), silent)
        to = target(first.image)
        with pytest.raises(EngineError, match="does not stand on"):
            await save(engine, client, workspace.ref, to, silent)
    assert registry.tags(to.repository) == []


@pytest.mark.parametrize(("still", "going"), [("kill", "start"), ("pause", "unpause")])
async def test_a_workspace_that_is_set_going_while_it_is_read_is_read_again(
    still: str,
    going: str,
    engine: aiodocker.Docker,
    registry: RunningRegistry,
    base: Image,
    workspace: Workspace,
    spool: Path,
) -> None:
    workspace.make([["file", "/opt/first", "1", 1, 0o644, 0, TIME]])
    docker(still, workspace.name)
    to = target(base)
    before = saved_images()

    def meanwhile(phase: str, sent: int) -> None:
        if going in todo:
            docker(todo.pop(), workspace.name)

    todo = [going]
    async with registry.client() as client:
        with pytest.raises(EngineUnavailable, match="read again"):
            await save(engine, client, workspace.ref, to, meanwhile, spool=spool)
        assert registry.tags(to.repository) == []
        assert saved_images() == before
        assert left_in(spool) == []
        saved = await save(engine, client, workspace.ref, to, meanwhile, spool=spool)
    assert saved.entries > 0


async def test_a_workspace_without_a_container_has_nothing_to_save(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image
) -> None:
    async with registry.client() as client:
        with pytest.raises(EngineError, match="no container") as raised:
            await save(engine, client, WorkspaceRef(id="ws", container=f"{PREFIX}-none"), target(base), silent)
    assert raised.value.reason == "workspace_gone"


async def test_a_deleted_manifest_takes_its_tag_along(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    async with registry.client() as client:
        saved = await save(engine, client, workspace.ref, target(base), silent)
        repository = saved.image.repository
        assert await client.tag_digest(repository, "1") == saved.image.digest
        assert await client.delete_manifest(repository, saved.image.digest)
        assert await client.tag_digest(repository, "1") is None
        assert not await client.delete_manifest(repository, saved.image.digest)


async def test_two_saves_of_an_idle_container_are_the_same_layer(
    engine: aiodocker.Docker, registry: RunningRegistry, base: Image, workspace: Workspace
) -> None:
    workspace.make(FIXED)
    async with registry.client() as client:
        one, two = [await save(engine, client, workspace.ref, target(base), silent) for _ in range(2)]
        layers = [(await client.manifest(each.image.repository, each.image.digest)).layers[-1] for each in (one, two)]
    assert layers[0] == layers[1]
    assert one.image.digest != two.image.digest  # deleting one version must not delete the other
