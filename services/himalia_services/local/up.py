"""`himalia up` and `himalia down`: from nothing to a login page, and back to silence with all data kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from himalia_services.local import engine, node, people, process, registry
from himalia_services.local.home import Home, Trouble
from himalia_services.local.hub import Hub

LOGIN_SECONDS = 90.0
ORDER = ("hub", "control", "proxy")  # the end goes against the start
Say = Callable[[str], None]


@dataclass(frozen=True)
class Up:
    """What a person needs to know afterwards. `first` is the admin just made, with their password."""

    url: str
    first: tuple[str, str] | None
    building: bool


def up(home: Home, say: Say) -> Up:
    """Prepare, start what does not run, wait for the login page. Doing it again changes nothing."""
    if not home.hub_config.exists():
        raise Trouble(
            f"hub_config is not beside this installation ({home.root}). Run `himalia up` from a checkout of Himalia."
        )
    if home.prepare():
        say(f"New installation in {home.path}")
    docker = engine.need(say)
    say(f"Docker Engine {docker.version}")
    _write(home, "gateway", engine.need_network(docker, home))
    command = node.need_proxy(home, say)
    _write(home, "proxy.json", json.dumps(command))
    if process.find(home.run / "supervisor.pid") is None:
        _check_ports(home)
        say("Starting proxy, control plane and hub")
        process.launch(
            [sys.executable, "-m", "himalia_services.local.supervisor"],
            env=home.environment(network=True),
            cwd=home.root,
            log=home.logs / "supervisor.log",
            pidfile=home.run / "supervisor.pid",
        )
    _wait_for_login(home)
    return Up(home.place.url, people.first(home), not built(home))


def built(home: Home) -> bool:
    """Whether the images of this checkout were built: an older one may be there while its successor builds."""
    try:
        images = json.loads((home.path / "images" / "built.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return {"base", "registry"} <= set(images) and process.find(home.run / "images.pid") is None


def _write(home: Home, name: str, text: str) -> None:
    new = home.run / f".{name}"
    new.write_text(text + "\n")
    new.replace(home.run / name)


def _check_ports(home: Home) -> None:
    """A port somebody else holds is named before anything starts; our own survivors of a supervisor's end are none."""
    place = home.place
    wanted = {
        "proxy": ("127.0.0.1", home.port),
        "control": (place.gateway, home.port + 82),
        "hub": (place.gateway, place.hub_port),
    }
    for name, (host, port) in wanted.items():
        if process.find(home.run / f"{name}.pid"):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == 99:  # EADDRNOTAVAIL
                    raise Trouble(
                        f"This machine cannot listen at {host}, the address Docker's containers know it by. Himalia needs a Docker Engine on this same machine."
                    ) from error
                raise Trouble(
                    f"Port {port} at {host} is taken by another program. End it, or set HIMALIA_PORT."
                ) from error


def _wait_for_login(home: Home) -> None:
    deadline = time.monotonic() + LOGIN_SECONDS
    while not login_answers(home):
        if process.find(home.run / "supervisor.pid") is None:
            raise Trouble(f"The supervisor ended by itself; its log is {home.logs / 'supervisor.log'}.")
        if time.monotonic() > deadline:
            raise Trouble(f"The login page does not answer after {LOGIN_SECONDS:g} s. The logs are in {home.logs}.")
        time.sleep(0.1)


def login_answers(home: Home) -> bool:
    place = home.place
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((place.gateway, place.hub_port)):
            return False
    connection = http.client.HTTPConnection("127.0.0.1", home.port, timeout=5)
    try:
        connection.request("GET", "/hub/login", headers={"Host": f"{home.domain}:{home.port}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Down:
    """What `down` ended, and the jobs that go on without it."""

    stopped: list[str]
    jobs: int


def down(home: Home, say: Say) -> Down:
    """End everything of ours but jobs: their outcome is collected at the next start. All data stay."""
    if not home.made:
        raise Trouble(f"There is no installation in {home.path}.")
    stopped: list[str] = []
    _stop_servers(home, say)
    for name in ("supervisor", "images", *ORDER):
        running = process.find(home.run / f"{name}.pid")
        if running:
            running.end(grace=15)
            stopped.append(name)
        with contextlib.suppress(FileNotFoundError):
            (home.run / f"{name}.pid").unlink()
    docker = engine.connect()
    if docker is None:
        return Down(stopped, 0)
    for container in engine.ours(docker, home, "workspace"):
        container.stop(timeout=10)
        stopped.append(container.name)
    if registry.stop(docker, home):
        stopped.append("registry")
    return Down(stopped, len(engine.ours(docker, home, "workload")))


def _stop_servers(home: Home, say: Say) -> None:
    """Through the hub while it is there, so that it knows; what is left is stopped on the engine."""
    try:
        with Hub(home) as hub:
            for person in hub.people():
                for name, server in (person.get("servers") or {}).items():
                    if not server.get("stopped"):
                        say(f"Stopping the workspace {person['name']}/{name}".rstrip("/"))
                        hub.stop(person["name"], name)
    except Trouble:
        return
