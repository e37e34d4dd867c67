"""One small process that keeps the three alive: proxy, control plane, hub. It also has the images built, behind them.

It is the parent of what it starts and otherwise nothing to it: each runs in a session of its own, and a supervisor started anew finds
by pid file and start time what runs and takes it over. Ending it ends nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from himalia_services.local import engine, process, registry
from himalia_services.local.home import Home, Trouble

FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0
STEADY_SECONDS = 20.0  # who ran this long was well, and starts again at once
READY_SECONDS = 10.0
REGISTRY_SECONDS = 15.0
BUILD_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """One of the three: its command, its environment, and where it listens when it is there."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    listens: tuple[str, int]
    after: Callable[[], Awaitable[None]] | None = field(default=None, compare=False)


def services(home: Home, proxy: Sequence[str]) -> list[Service]:
    """The three in the order of their start: without a proxy the hub gives up, and it asks for the control plane."""
    place = home.place
    env = home.environment() | {"HIMALIA_GATEWAY": place.gateway}
    env.setdefault("HIMALIA_CATALOG", str(home.root / "hub_config" / "catalog.yaml"))
    bind = place.bind_url.removeprefix("http://").partition(":")[0]
    command = [
        *proxy,
        "--ip",
        bind,
        "--port",
        str(home.port),
        "--api-ip",
        "127.0.0.1",
        "--api-port",
        str(home.port + 1),
    ]
    # a hub adds these two only to a proxy it starts itself; without the first a login at the service never ends
    command += [
        "--host-routing",
        "--error-target",
        f"http://{place.gateway}:{place.hub_port}/hub/error",
        "--log-level",
        "warn",
    ]
    python = sys.executable
    return [
        Service(
            "proxy", command, env | {"CONFIGPROXY_AUTH_TOKEN": home.secret("proxy-token")}, ("127.0.0.1", home.port + 1)
        ),
        Service("control", [python, "-m", "himalia_services"], env, (place.gateway, home.port + 82)),
        Service(
            "hub", [python, "-m", "jupyterhub", f"--config={home.hub_config}"], env, (place.gateway, place.hub_port)
        ),
    ]


class Keeper:
    """Keeps one service running until it is told to leave it alone."""

    def __init__(self, home: Home, service: Service) -> None:
        self.home = home
        self.service = service
        self.there = asyncio.Event()  # it listened once, or ended without: others need not wait longer
        self.child: subprocess.Popen[bytes] | None = None  # None when it was taken over

    async def keep(self) -> None:
        delay = FIRST_DELAY
        clock = asyncio.get_running_loop().time
        while True:
            running = process.find(self._pidfile)
            self.child = None
            if running is None:
                try:
                    self.child, running = process.launch(
                        self.service.argv,
                        env=self.service.env,
                        cwd=self.home.root,
                        log=self._log,
                        pidfile=self._pidfile,
                    )
                except OSError as error:  # a full disk, no process to be had: that passes, and the others must live on
                    delay = min(delay * 2, LONGEST_DELAY)
                    say(f"{self.service.name} cannot be started ({error}); trying again in {delay:g} s")
                    await asyncio.sleep(delay)
                    continue
                say(f"{self.service.name} started, pid {running.pid}")
            else:
                say(f"{self.service.name} taken over, pid {running.pid}")
            began = clock()
            greeting = asyncio.create_task(self._greet())
            await gone(running)
            greeting.cancel()
            self.there.set()
            code = f" with {self.child.wait()}" if self.child else ""
            delay = FIRST_DELAY if clock() - began > STEADY_SECONDS else min(delay * 2, LONGEST_DELAY)
            say(f"{self.service.name} ended{code}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)

    async def _greet(self) -> None:
        while not _listening(*self.service.listens):  # noqa: ASYNC110 (another process's port)
            await asyncio.sleep(0.1)
        self.there.set()
        if self.service.after:
            await self.service.after()

    @property
    def _pidfile(self) -> Path:
        return self.home.run / f"{self.service.name}.pid"

    @property
    def _log(self) -> Path:
        return self.home.logs / f"{self.service.name}.log"


async def gone(running: process.Running) -> None:
    """Wait for the end of a process, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        if running.alive():
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def give_routes(home: Home) -> None:
    """A proxy begins with no routes: have the hub write them, again and again until it did."""
    while not await asyncio.to_thread(_post_routes, home):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    say("the proxy has its routes")


def _post_routes(home: Home) -> bool:
    place = home.place
    connection = http.client.HTTPConnection(place.gateway, place.hub_port, timeout=10)
    try:
        connection.request(
            "POST", "/hub/api/proxy", headers={"Authorization": f"token {home.secret('supervisor-token')}"}
        )
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


async def keep_images(home: Home) -> None:
    """Registry image, registry, then base image and its push. Tried again when it failed: a network comes back."""
    while True:
        try:
            await build(home, ["--only", "registry"])
            await asyncio.to_thread(_need_registry, home)
            await build(
                home, ["--only", "base", "--registry", registry.address(home), "--registry-user", registry.USER]
            )
            say("the images are built")
            break
        except Trouble as trouble:
            say(f"images: {trouble}; trying again in {BUILD_RETRY_SECONDS:g} s")
        except Exception as error:
            say(f"images: {type(error).__name__}: {error}; trying again in {BUILD_RETRY_SECONDS:g} s")
        await asyncio.sleep(BUILD_RETRY_SECONDS)
    while True:
        await asyncio.sleep(REGISTRY_SECONDS)
        if not await asyncio.to_thread(registry.answers, home):
            with contextlib.suppress(Exception):
                await asyncio.to_thread(_need_registry, home)
                say("the registry was started again")


async def build(home: Home, options: Sequence[str]) -> None:
    """Run the builder to its end; one that a former supervisor left running is waited for first."""
    pidfile = home.run / "images.pid"
    former = process.find(pidfile)
    if former:
        await gone(former)
    child, running = process.launch(
        [sys.executable, str(home.builder), "--home", str(home.path), *options],
        env=home.environment(network=True),
        cwd=home.root,
        log=home.logs / "images.log",
        pidfile=pidfile,
    )
    await gone(running)
    if child.wait():
        raise Trouble(f"the build ended with {child.returncode}, see {home.logs / 'images.log'}")


def _need_registry(home: Home) -> None:
    found = engine.connect()
    if found is None:
        raise Trouble("Docker does not answer")
    registry.need(found, home)
    deadline = time.monotonic() + READY_SECONDS
    while not registry.answers(home):
        if time.monotonic() > deadline:
            raise Trouble("the registry was started and does not answer")
        time.sleep(0.1)


async def supervise(home: Home, proxy: Sequence[str]) -> None:
    """Start in order, then keep. Returns when told to end."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    tasks: list[asyncio.Task[None]] = []
    for service in services(home, proxy):
        if service.name == "proxy":
            service = Service(service.name, service.argv, service.env, service.listens, after=lambda: give_routes(home))
        keeper = Keeper(home, service)
        tasks.append(asyncio.create_task(keeper.keep()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keeper.there.wait(), READY_SECONDS)
    tasks.append(asyncio.create_task(keep_images(home)))
    waiting = asyncio.create_task(end.wait())
    done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *tasks):
        task.cancel()
    for task in done - {waiting}:
        task.result()
    say("leaving; what was started goes on")


def say(text: str) -> None:
    print(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}", flush=True)


def main() -> None:
    """`python -m himalia_services.local.supervisor`: the proxy's command stands in `run/proxy.json`."""
    home = Home.read(os.environ)
    # held as long as this process lives, by the descriptor alone
    lock = os.open(home.run / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("A supervisor of this installation runs already; there is nothing to do.")
    process.write(home.run / "supervisor.pid", os.getpid())
    asyncio.run(supervise(home, json.loads((home.run / "proxy.json").read_text())))


if __name__ == "__main__":
    main()
