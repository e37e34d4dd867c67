"""Processes found again by pid and start time; the supervisor's order, restarts and what its children are told."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from himalia_services.local import process
from himalia_services.local.home import Home, Trouble
from himalia_services.local.supervisor import Keeper, Service, gone, services


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.read({"HIMALIA_HOME": str(tmp_path / "home"), "HIMALIA_PORT": "18000"})
    home.prepare()
    (home.run / "gateway").write_text("192.0.2.1\n")
    return home


def sleeper(home: Home, name: str = "sleeper") -> tuple[object, process.Running]:
    return process.launch(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env=home.environment(),
        cwd=home.path,
        log=home.logs / f"{name}.log",
        pidfile=home.run / f"{name}.pid",
    )


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def test_a_process_is_found_again_by_its_pid_file(home):
    child, running = sleeper(home)
    try:
        assert process.find(home.run / "sleeper.pid") == running
        assert running.uptime < 60
    finally:
        running.end(grace=1)
        child.wait()
    assert process.find(home.run / "sleeper.pid") is None


def test_another_process_with_the_same_pid_is_not_taken_for_it(home):
    child, running = sleeper(home)
    try:
        (home.run / "sleeper.pid").write_text(json.dumps({"pid": running.pid, "started": running.started - 1}))
        assert process.find(home.run / "sleeper.pid") is None
    finally:
        running.end(grace=1)
        child.wait()


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"pid": 1}'])
def test_a_broken_pid_file_names_nobody(home, text):
    (home.run / "x.pid").write_text(text)
    assert process.find(home.run / "x.pid") is None


def test_the_end_reaches_the_whole_group_and_kills_who_does_not_listen(home):
    deaf = "import signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN); subprocess.Popen(['sleep', '60']); print('deaf', flush=True); time.sleep(60)"
    child, running = process.launch(
        [sys.executable, "-c", deaf],
        env=home.environment(),
        cwd=home.path,
        log=home.logs / "deaf.log",
        pidfile=home.run / "deaf.pid",
    )
    until(lambda: "deaf" in (home.logs / "deaf.log").read_text())
    running.end(grace=0.1)
    child.wait()
    assert not running.alive()


def test_a_large_log_is_put_aside_at_a_start(home, monkeypatch):
    monkeypatch.setattr(process, "LOG_LIMIT", 10)
    log = home.logs / "x.log"
    log.write_text("x" * 11)
    process.rotate(log)
    assert not log.exists()
    assert (home.logs / "x.log.1").read_text() == "x" * 11


def test_secrets_are_made_once_and_for_their_owner_only(home):
    before = {path.name: path.read_text() for path in (home.path / "secrets").iterdir()}
    assert home.prepare() is False
    assert {path.name: path.read_text() for path in (home.path / "secrets").iterdir()} == before
    assert len(set(before.values())) == len(before)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (home.path / "secrets").iterdir())
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("port", ["80", "http", "70000"])
def test_a_port_that_cannot_be_is_refused_with_a_sentence(port):
    with pytest.raises(Trouble, match="HIMALIA_PORT"):
        Home.read({"HIMALIA_PORT": port})


def test_no_secret_stands_in_a_command_line_and_only_the_proxys_in_an_environment(home):
    secrets = {path.read_text().strip(): path.name for path in (home.path / "secrets").iterdir()}
    for service in services(home, ["node", "configurable-http-proxy"]):
        assert not [word for word in service.argv if any(secret in word for secret in secrets)]
        named = {secrets[value] for value in service.env.values() if value in secrets}
        assert named == ({"proxy-token"} if service.name == "proxy" else set())


def test_the_order_is_proxy_control_plane_hub(home):
    assert [service.name for service in services(home, ["node", "proxy"])] == ["proxy", "control", "hub"]


def test_children_inherit_nothing_that_configures_another_hub_or_python(home, monkeypatch):
    for name in (
        "JUPYTERHUB_API_TOKEN",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "CONFIGPROXY_AUTH_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.setenv(name, "x")
    assert "x" not in services(home, ["node", "proxy"])[2].env.values()


def test_without_a_domain_only_loopback_is_bound(home):
    (proxy, _, _) = services(home, ["node", "proxy"])
    assert proxy.argv[proxy.argv.index("--ip") + 1] == "127.0.0.1"
    opened = Home(home.path, home.port, "himalia.example.org", home.root)
    (proxy, _, _) = services(opened, ["node", "proxy"])
    assert proxy.argv[proxy.argv.index("--ip") + 1] == "0.0.0.0"


@pytest.fixture
def listener(home: Home, unused_tcp_port: int) -> Service:
    code = f"import http.server; http.server.HTTPServer(('127.0.0.1', {unused_tcp_port}), http.server.BaseHTTPRequestHandler).serve_forever()"
    return Service("listener", [sys.executable, "-c", code], home.environment(), ("127.0.0.1", unused_tcp_port))


async def over(task: asyncio.Task[None], *keepers: Keeper) -> None:
    """End a test: nobody restarts, nothing runs, nothing is left unreaped."""
    task.cancel()
    for keeper in keepers:
        if keeper.child:
            keeper.child.kill()
            await asyncio.to_thread(keeper.child.wait)


async def killed_and_back(home: Home, first: process.Running) -> process.Running:
    os.kill(first.pid, 9)
    async with asyncio.timeout(20):
        while True:
            again = process.find(home.run / "listener.pid")
            if again and again != first:
                return again
            await asyncio.sleep(0.02)


async def test_a_killed_service_comes_back_and_is_greeted_again(home, listener):
    greeted = []

    async def greet() -> None:
        greeted.append(process.find(home.run / "listener.pid"))

    keeper = Keeper(home, Service(listener.name, listener.argv, listener.env, listener.listens, after=greet))
    task = asyncio.create_task(keeper.keep())
    await asyncio.wait_for(keeper.there.wait(), 20)
    first = process.find(home.run / "listener.pid")
    assert first is not None
    second = await killed_and_back(home, first)
    async with asyncio.timeout(20):
        while len(greeted) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await over(task, keeper)
    assert greeted == [first, second]


async def test_a_supervisor_started_anew_takes_over_what_runs(home, listener):
    former = Keeper(home, listener)
    task = asyncio.create_task(former.keep())
    async with asyncio.timeout(20):
        while process.find(home.run / "listener.pid") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    first = process.find(home.run / "listener.pid")
    assert first is not None
    task.cancel()
    keeper = Keeper(home, listener)
    task = asyncio.create_task(keeper.keep())
    await asyncio.wait_for(keeper.there.wait(), 20)
    assert process.find(home.run / "listener.pid") == first
    await killed_and_back(home, first)
    await over(task, former, keeper)


async def test_the_end_of_a_process_that_is_not_ours_is_seen(home):
    child, running = sleeper(home)
    waiting = asyncio.create_task(gone(running))
    os.kill(running.pid, 9)
    await asyncio.wait_for(waiting, 5)
    child.wait()


async def test_a_service_that_cannot_be_started_is_tried_again_and_ends_nothing_else(home, listener, monkeypatch):
    launch, refused = process.launch, []

    def full(*args: object, **options: object):
        if len(refused) < 2:
            refused.append(1)
            raise OSError(28, "No space left on device")
        return launch(*args, **options)

    monkeypatch.setattr(process, "launch", full)
    keeper = Keeper(home, listener)
    task = asyncio.create_task(keeper.keep())
    async with asyncio.timeout(30):
        await keeper.there.wait()
    assert len(refused) == 2
    assert not task.done()
    await over(task, keeper)
