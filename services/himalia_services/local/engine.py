"""The Docker Engine of this machine: taken as it is when one works, installed and started when root and none is there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound

from himalia_services.local.home import Home, Trouble

OLDEST = (20, 10)
START_SECONDS = 60
Say = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """What the engine is, and what this machine does not offer because of it."""

    version: str
    client: Any
    lacks: list[str] = field(default_factory=list)


def connect() -> Engine | None:
    """The engine that answers, None when none does. An unsuitable one is Trouble."""
    try:
        client = docker.from_env(version="auto", timeout=120)
        info = client.info()
        version = client.version()["Version"]
    except DockerException:
        return None
    found = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if found < OLDEST:
        raise Trouble(f"Docker Engine {version} is too old; Himalia needs 20.10 or newer.")
    if info.get("OSType") != "linux":
        raise Trouble(f"This Docker Engine runs {info.get('OSType')} containers; Himalia needs Linux ones.")
    return Engine(version, client, _lacks(info))


def _lacks(info: dict[str, Any]) -> list[str]:
    security = " ".join(info.get("SecurityOptions") or [])
    lacks = []
    if "name=userns" not in security and "name=rootless" not in security:
        lacks.append(
            "user namespaces: with sudo a person is root inside a container under seccomp and dropped capabilities, not mapped to a user"
        )
    if "nvidia" not in (info.get("Runtimes") or {}):
        lacks.append("GPUs: this engine has no NVIDIA runtime")
    if os.geteuid() != 0:
        lacks.append(
            "reading containers directly: Himalia does not run as root, so saves go through a short helper container"
        )
    return lacks


def need(say: Say) -> Engine:
    """An engine that works, made ready when that is possible, else Trouble with the one thing to do."""
    engine = connect()
    if engine:
        return engine
    if os.geteuid() != 0:
        hint = (
            " Its socket is there, but not for you: join the group docker."
            if Path("/var/run/docker.sock").exists()
            else ""
        )
        raise Trouble(
            f"No Docker Engine answers.{hint} Install Docker, or run `make up` once as root, which installs Debian's package."
        )
    if shutil.which("dockerd") is None:
        _install(say)
    _start(say)
    engine = connect()
    if engine is None:
        raise Trouble("The Docker daemon was started and does not answer; its log is /var/log/himalia-dockerd.log.")
    return engine


def _install(say: Say) -> None:
    if shutil.which("apt-get") is None:
        raise Trouble(
            f"No Docker Engine answers, and {platform.freedesktop_os_release().get('NAME', 'this system')} has no apt-get. Install Docker Engine first."
        )
    say("Installing Docker from Debian's package (docker.io)")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-qy", "--no-install-recommends", "docker.io", "debootstrap", "iptables"],
    ):
        done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Trouble(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-400:]}")


def _start(say: Say) -> None:
    """Start a daemon that nobody else manages. The package may just have started it through systemd: wait for that first."""
    if Path("/run/systemd/system").exists():
        say("Starting the Docker service")
        subprocess.run(["systemctl", "start", "docker"], capture_output=True, check=False)
    else:
        say("Starting the Docker daemon")
        _forget_former(Path("/var/run/docker.pid"), "dockerd")
        _forget_former(Path("/var/run/docker/containerd/containerd.pid"), "containerd")
        with open("/var/log/himalia-dockerd.log", "ab") as log:
            subprocess.Popen(
                ["dockerd", f"--mtu={default_mtu()}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and connect() is None:
        time.sleep(0.3)


def _forget_former(pidfile: Path, program: str) -> None:
    """A daemon that was killed leaves its pid file, and refuses to start once that pid is some other program's."""
    try:
        pid = int(pidfile.read_text())
    except (FileNotFoundError, ValueError):
        return
    try:
        alive = Path(f"/proc/{pid}/comm").read_text().strip() == program
    except FileNotFoundError:
        alive = False
    if not alive:
        pidfile.unlink(missing_ok=True)


def default_mtu() -> int:
    """The MTU of the default route: a bridge with a larger one loses packets behind a tunnel."""
    try:
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return int(Path(f"/sys/class/net/{fields[0]}/mtu").read_text())
    except (OSError, IndexError, ValueError):
        pass
    return 1500


def need_network(engine: Engine, home: Home) -> str:
    """Our bridge, on which containers do not reach each other; the answer is its gateway's address, ours for them."""
    try:
        network = engine.client.networks.get(home.network)
    except NotFound:
        options = {
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.name": f"himalia-{home.short[:7]}"[:15],
            "com.docker.network.driver.mtu": str(default_mtu()),
        }
        try:
            network = engine.client.networks.create(
                home.network, driver="bridge", options=options, labels={"himalia.instance": home.instance}
            )
        except APIError as error:
            raise Trouble(f"Docker could not make the network {home.network}: {error.explanation}") from error
        network.reload()
    gateways = [entry["Gateway"] for entry in network.attrs["IPAM"]["Config"] or [] if entry.get("Gateway")]
    if not gateways:
        raise Trouble(
            f"The Docker network {home.network} has no gateway address. Remove it with `docker network rm {home.network}`; `himalia up` makes it anew."
        )
    return gateways[0].partition("/")[0]


def ours(engine: Engine, home: Home, kind: str, *, all: bool = False) -> list[Any]:
    """The containers of this installation of one kind; with `all` also those that do not run."""
    return engine.client.containers.list(
        all=all, filters={"label": [f"himalia.instance={home.instance}", f"himalia.kind={kind}"]}
    )
