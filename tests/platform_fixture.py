"""A whole installation of its own for tests: home, ports, network, registry; real hub, proxy, control plane, containers.

Images come from the builder's cache in `HIMALIA_TEST_HOME`; the registry's blobs are linked from there, so that a session does not
push a gigabyte again. Everything it made is removed at the end, except images.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from docker_cleanup import clear
from himalia_services.local import process
from himalia_services.local.home import Home

CACHE = Path(os.environ.get("HIMALIA_TEST_HOME") or "~/.cache/himalia-tests").expanduser()
START_SECONDS = 180.0


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Poll until `condition` gives something true; the failure says what did not come about."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s", pytrace=False)
        time.sleep(0.1)


class _Loopback(httpx.HTTPTransport):
    """Every *.localhost is this machine; glibc does not know that, browsers do."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(host="127.0.0.1") if request.url.host.endswith(".localhost") else request.url
        # a request of its own: the client reads the original's host for its cookies
        inner = httpx.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        return super().handle_request(inner)


def browser(**options: Any) -> httpx.Client:
    """A client with a cookie jar that finds *.localhost and goes where it is sent."""
    return httpx.Client(transport=_Loopback(), follow_redirects=True, timeout=60, trust_env=False, **options)


@dataclass
class Person:
    """Somebody with a password, a browser session and a token for the hub's API."""

    platform: Platform
    name: str
    password: str
    session: httpx.Client = field(default_factory=browser)
    _token: str = ""

    # --- the browser ---

    def login(self) -> httpx.Response:
        """Log in by the page's own form."""
        page = self.session.get(f"{self.platform.url}/hub/login")
        return self.submit(page, {"username": self.name, "password": self.password})

    def submit(self, page: httpx.Response, fields: Mapping[str, str]) -> httpx.Response:
        """Send the page's form with its XSRF token."""
        form = re.search(r"<form[^>]*action=\"([^\"]+)\"[^>]*>", page.text)
        assert form, f"no form on {page.url}: {page.text[:500]}"
        xsrf = re.search(r"name=\"_xsrf\" value=\"([^\"]+)\"", page.text)
        data = dict(fields) | ({"_xsrf": xsrf.group(1)} if xsrf else {})
        return self.session.post(page.url.join(unescape(form.group(1))), data=data)

    # --- the API ---

    @property
    def token(self) -> str:
        if not self._token:
            auth = {"username": self.name, "password": self.password}
            url = f"{self.platform.hub_api}/users/{self.name}/tokens"
            answer = httpx.post(url, json={"auth": auth}, timeout=30, trust_env=False)
            assert answer.status_code == 201, answer.text
            self._token = answer.json()["token"]
        return self._token

    def hub(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"token {self.token}"}
        return httpx.request(
            method, f"{self.platform.hub_api}{path}", headers=headers, timeout=60, trust_env=False, **options
        )

    def server(self, name: str = "") -> dict[str, Any]:
        return self.hub("GET", f"/users/{self.name}").json()["servers"].get(name) or {}

    def ask_start(self, name: str = "", **options: str) -> httpx.Response:
        return self.hub("POST", self._path(name), json={"user_options": options} if options else {})

    def start(self, name: str = "", **options: str) -> dict[str, Any]:
        """Start a server and wait until it is ready; a start that fails fails the test with the hub's words."""
        answer = self.ask_start(name, **options)
        assert answer.status_code in (201, 202), answer.text

        def settled() -> dict[str, Any] | None:
            server = self.server(name)
            return server if server.get("ready") or not server.get("pending") else None

        server = until(settled, f"{self.name}/{name} started", START_SECONDS)
        assert server.get("ready"), self.why(name)
        return server

    def why(self, name: str = "") -> str:
        """Why a start failed, in the hub's words."""
        return self.hub("GET", f"{self._path(name)}/progress").text

    def stop(self, name: str = "", *, remove: bool = False) -> None:
        answer = self.hub("DELETE", self._path(name), json={"remove": True} if remove else None)
        assert answer.status_code in (202, 204), answer.text
        until(lambda: self.stopped(name), f"{self.name}/{name} stopped")

    def stopped(self, name: str = "") -> bool:
        server = self.server(name)
        return not server or (server.get("stopped", True) and not server.get("pending"))

    def _path(self, name: str) -> str:
        return f"/users/{self.name}/server" if not name else f"/users/{self.name}/servers/{name}"

    # --- what is inside ---

    def plan(self, name: str = "") -> dict[str, Any]:
        """The launch plan the hub keeps of a server."""
        return self.platform.state(self.name, name)["plan"]

    def container(self, name: str = "") -> Any:
        return self.platform.docker.containers.get(self.plan(name)["container"])

    def run(self, *argv: str, name: str = "", user: str = "jovyan") -> str:
        """Run a command in the workspace; a failure is the test's."""
        code, output = self.container(name).exec_run(
            list(argv),
            user=user,
            workdir="/home/jovyan",
            environment={**self.environment(name), "HOME": "/home/jovyan"},
        )
        assert code == 0, f"{argv} ended with {code}: {output.decode(errors='replace')}"
        return output.decode()

    def environment(self, name: str = "") -> dict[str, str]:
        """What the server was started with, from the mounted file."""
        return json.loads((Path(self.plan(name)["run_folder"]) / "environment.json").read_text())["env"]


@dataclass
class Platform:
    """One running installation."""

    home: Home
    docker: Any
    welcome: str = ""  # what the first `himalia up` printed

    @property
    def url(self) -> str:
        return f"http://{self.home.domain}:{self.home.port}"

    @property
    def hub_api(self) -> str:
        return f"http://{self.home.gateway}:{self.home.port + 81}/hub/api"

    @property
    def environ(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HIMALIA_", "JUPYTERHUB_"))}
        ours = {"HIMALIA_HOME": str(self.home.path), "HIMALIA_PORT": str(self.home.port)}
        return clean | ours | {"HIMALIA_CATALOG": str(Path(__file__).parent / "catalog.yaml")}

    def himalia(self, *words: str, code: int = 0) -> str:
        """Run a command of this installation."""
        command = [str(Path(sys.executable).parent / "himalia"), *words]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, (
            f"himalia {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done.stdout

    def person(self, name: str, *, admin: bool = False) -> Person:
        """Make somebody new."""
        made = json.loads(self.himalia("users", "add", name, "--json", *(["--admin"] if admin else [])))
        return Person(self, name, made["password"])

    def group(self, name: str, *people: Person) -> None:
        self.himalia("groups", "add", name)
        if people:
            self.himalia("groups", "join", name, *(person.name for person in people))

    def running(self, name: str) -> process.Running:
        """One of the three."""
        found = process.find(self.home.run / f"{name}.pid")
        assert found, f"{name} does not run"
        return found

    def kill(self, name: str) -> process.Running:
        """kill -9; the answer is what runs in its place."""
        former = self.running(name)
        os.kill(former.pid, 9)
        pidfile = self.home.run / f"{name}.pid"
        return until(lambda: (now := process.find(pidfile)) and now != former and now, f"{name} runs again")

    def state(self, user: str, server: str) -> dict[str, Any]:
        """What the hub keeps of a server, from its database: no API shows it to whoever is not an admin."""
        import sqlite3

        with sqlite3.connect(f"file:{self.home.path / 'hub' / 'jupyterhub.sqlite'}?mode=ro", uri=True) as db:
            row = db.execute(
                "select s.state from spawners s join users u on u.id = s.user_id where u.name = ? and s.name = ?",
                (user, server),
            ).fetchone()
        db.close()
        return json.loads(row[0]) if row and row[0] else {}

    def labelled(self, kind: str, what: str = "containers") -> list[Any]:
        filters = {"label": [f"himalia.instance={self.home.instance}", f"himalia.kind={kind}"]}
        return (
            self.docker.containers.list(all=True, filters=filters)
            if what == "containers"
            else self.docker.volumes.list(filters=filters)
        )

    # --- its life ---

    def up(self) -> None:
        printed = self.himalia("up")
        self.welcome = self.welcome or printed
        until(self._image_there, "the base image is in the registry", 900)

    def _image_there(self) -> bool:
        built = self.home.path / "images" / "built.json"
        progress = self.home.path / "images" / "progress.json"
        if progress.exists() and (error := json.loads(progress.read_text()).get("error")):
            pytest.fail(f"the image could not be built: {error}", pytrace=False)
        return (
            built.exists()
            and bool(json.loads(built.read_text()).get("base", {}).get("digest"))
            and not process.find(self.home.run / "images.pid")
        )

    def remove(self) -> None:
        """End everything and remove what was made: containers, volumes, network."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.himalia("down")
        clear(f"himalia.instance={self.home.instance}")


def _free_port(first: int) -> int:
    """A base port whose four neighbours are free as well."""

    def free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    return next(base for base in range(first, 60000, 100) if all(free(base + more) for more in (0, 1, 50, 81, 82)))


def _link_tree(source: Path, target: Path) -> None:
    """Blobs never change, so links will do; across file systems they are copied."""
    if not source.exists():
        return
    done = subprocess.run(["cp", "-al", f"{source}/.", str(target)], capture_output=True, check=False)
    if done.returncode:
        shutil.copytree(source, target, dirs_exist_ok=True)


@contextmanager
def running_platform(folder: Path, *, first_port: int = 18000) -> Iterator[Platform]:
    """An installation in `folder`, up, with its image in its registry; gone afterwards."""
    home = Home.read({"HIMALIA_HOME": str(folder), "HIMALIA_PORT": str(_free_port(first_port))})
    home.prepare()
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "node").mkdir(exist_ok=True)
    (home.path / "node").rmdir()
    (home.path / "node").symlink_to(CACHE / "node")
    data = home.path / "registry" / "data"
    data.mkdir(parents=True)
    _link_tree(CACHE / "registry-data", data)
    with suppress(FileNotFoundError):
        shutil.copy(CACHE / "images" / "built.json", home.path / "images" / "built.json")
    platform = Platform(home, docker.from_env())
    try:
        platform.up()
        if not (CACHE / "registry-data").exists():
            new = CACHE / "registry-data.new"
            new.mkdir(exist_ok=True)
            _link_tree(data, new)
            new.rename(CACHE / "registry-data")
        yield platform
    finally:
        platform.remove()
        platform.docker.close()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("himalia") / "home") as running:
        yield running
