"""`himalia-run boot-check`: does this image start? Plays the hub on loopback, asks the server, runs a cell, lists packages.

It needs no network, no home and no token of anybody. A server that fails makes the check fail; a kernel that fails is a
warning, since kernels are the user's to repair from a terminal.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from himalia.runner import job, process, surroundings, workspace
from himalia.runner.process import JOVYAN, Ending

TIMEOUT = 60.0
NAME = "boot-check"
PREFIX = f"/user/{NAME}/"
LOG_LINES = 50
KERNEL_CHECK = Path(__file__).with_name("kernel.py")


class Failed(Exception):
    """The image does not start; the message is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the boot check found."""

    ok: bool
    reason: str = ""
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    packages: dict[str, list[list[str]]] = field(default_factory=dict)
    log_tail: str = ""


def run(folder: Path = job.FOLDER) -> int:
    """Check the image this runs in; 0 when it starts."""
    began = time.monotonic()
    try:
        spec = json.loads((folder / "spec.json").read_text())
        env = {str(name): str(value) for name, value in (spec.get("env") or {}).items()}
        deadline = began + float(spec.get("timeout_seconds") or TIMEOUT)
    except (OSError, ValueError, AttributeError) as error:
        env, deadline = {}, began + TIMEOUT
        print(f"himalia-run: the specification cannot be read ({error}); checking with defaults.", flush=True)
    result = check(env, deadline)
    job.write(folder / "result.json", vars(result))
    return 0 if result.ok else 1


def check(env: Mapping[str, str], deadline: float) -> Result:
    """Boot the server and ask it; then what is installed."""
    workspace.prepare()
    with tempfile.TemporaryFile() as log:
        try:
            fault = _boot(env, log.fileno(), deadline)
        except Failed as failure:
            return Result(ok=False, reason="boot_check", message=str(failure), log_tail=_tail(log.fileno()))
    warnings = [f"kernel_broken: {fault}"] if fault else []
    return Result(ok=True, warnings=warnings, packages=packages(surroundings.environment(env)))


def packages(env: Mapping[str, str]) -> dict[str, list[list[str]]]:
    """What is installed, by installer: [name, version] pairs. An installer that is missing or broken lists nothing."""
    return {"dpkg": _dpkg(env), "pip": _pip(env), "conda": _conda(env)}


def _boot(env: Mapping[str, str], log: int, deadline: float) -> str:
    """Start the server and question it; what is wrong with the default kernel, or nothing. Raises Failed."""
    token = secrets.token_hex(16)
    hub = Hub(token)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    port = free_port()
    server_env = workspace.server({**env, **hub_environment(token, hub.server_port, port)})
    argv = workspace.command(["jupyterhub-singleuser"])
    started = process.start(argv, env=server_env, cwd=JOVYAN.home, output=log)
    if isinstance(started, Ending):
        raise Failed(f"The server could not be started: {started.error}")
    try:
        until_answers(started, port, token, deadline)
        _expect_lab(port, token)
        _expect_code_server(server_env, deadline)
        return _kernel_fault(server_env, port, token, deadline)
    finally:
        process.stop(started)
        hub.shutdown()


def until_answers(server: int, port: int, token: str, deadline: float) -> None:
    while True:
        status, _ = get(port, f"{PREFIX}api/status", token)
        if status == 200:
            return
        ended, code = os.waitpid(server, os.WNOHANG)
        if ended:
            raise Failed(f"The server ended with {os.waitstatus_to_exitcode(code)} before it answered.")
        if time.monotonic() > deadline:
            raise Failed(f"The server did not answer in time ({_answer(status)} from /api/status).")
        time.sleep(0.1)


def _expect_lab(port: int, token: str) -> None:
    status, body = get(port, f"{PREFIX}lab", token)
    if status != 200 or b"jupyter-config-data" not in body:
        raise Failed(f"JupyterLab does not open ({_answer(status)} from /lab).")


def _expect_code_server(env: Mapping[str, str], deadline: float) -> None:
    code, output = _ask(["/opt/himalia/bin/code-server", "--version"], env, deadline)
    if code:
        raise Failed(f"VS Code does not start: {_last_line(output)}.")


def _kernel_fault(env: Mapping[str, str], port: int, token: str, deadline: float) -> str:
    url = f"127.0.0.1:{port}{PREFIX}"
    python = str(surroundings.OURS / "bin/python")
    seconds = max(5.0, deadline - time.monotonic())
    code, output = _ask(
        [python, "-I", str(KERNEL_CHECK), url, f"{seconds:.0f}"], {**env, "HIMALIA_BOOT_TOKEN": token}, deadline + 5
    )
    if code == 0:
        return ""
    return job.kernel_fault(env) or _last_line(output)


def hub_environment(token: str, hub_port: int, port: int) -> dict[str, str]:
    hub = f"http://127.0.0.1:{hub_port}/hub/api"
    access = json.dumps([f"access:servers!server={NAME}/"])
    return {
        "JUPYTERHUB_ACTIVITY_URL": f"{hub}/users/{NAME}/activity",
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_API_URL": hub,
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{NAME}",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": access,
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": access,
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}{PREFIX}",
        "JUPYTERHUB_USER": NAME,
    }


class Hub(ThreadingHTTPServer):
    """As much of a hub as a server asks for before it answers."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.token = token
        self.version = _hub_version()


class HubRequest(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/hub/api":
            self._answer(200, {"version": self.hub.version})
        elif not self._knows():
            self._answer(403, {"status": 403, "message": "Unknown token"})
        elif self.path.startswith("/hub/api/user"):
            self._answer(200, _user())
        else:
            self._answer(404, {"status": 404, "message": "Not found"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(200, {})

    def log_message(self, format: str, *args: Any) -> None:
        """A stand-in keeps no log."""

    def _knows(self) -> bool:
        return self.headers.get("Authorization", "").partition(" ")[2] == self.hub.token

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-JupyterHub-Version", self.hub.version)
        self.end_headers()
        self.wfile.write(content)


def _user() -> dict[str, object]:
    return {
        "kind": "user",
        "name": NAME,
        "admin": False,
        "groups": [],
        "scopes": [f"access:servers!server={NAME}/", f"read:users:name!user={NAME}"],
        "session_id": None,
    }


def _hub_version() -> str:
    """The hub's version that the server was built for: it warns about any other."""
    found = sorted(surroundings.OURS.glob("lib/python3*/site-packages/jupyterhub-*.dist-info"))
    return found[0].name.removeprefix("jupyterhub-").removesuffix(".dist-info") if found else "0"


def get(port: int, path: str, token: str) -> tuple[int, bytes]:
    """GET as the token's owner; status 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"token {token}"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _answer(status: int) -> str:
    return f"{status}" if status else "no answer"


def _ask(argv: list[str], env: Mapping[str, str], deadline: float) -> tuple[int, str]:
    """Run a short command as jovyan; its exit code and what it said."""
    as_user = os.geteuid() == 0
    try:
        done = subprocess.run(
            argv,
            env=dict(env),
            cwd=JOVYAN.home,
            user=JOVYAN.uid if as_user else None,
            group=JOVYAN.gid if as_user else None,
            extra_groups=[JOVYAN.gid] if as_user else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(5.0, deadline - time.monotonic()),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def _dpkg(env: Mapping[str, str]) -> list[list[str]]:
    code, output = _ask(["dpkg-query", "-W", "-f", "${Package}\t${Version}\n"], env, time.monotonic() + 30)
    return [line.split("\t") for line in output.splitlines() if line.count("\t") == 1] if code == 0 else []


PIP_FALLBACK = """
import importlib.metadata, json
print(json.dumps([{"name": d.metadata["Name"], "version": d.version} for d in importlib.metadata.distributions()]))
"""


def _pip(env: Mapping[str, str]) -> list[list[str]]:
    python = str(surroundings.VENV / "bin/python")
    quiet = {**env, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    listed = _pairs([python, "-m", "pip", "list", "--format=json"], quiet)
    # A broken pip still leaves the packages' own records.
    return listed or _pairs([python, "-c", PIP_FALLBACK], quiet)


def _conda(env: Mapping[str, str]) -> list[list[str]]:
    return _pairs(["conda", "list", "--json"], env)


def _pairs(argv: list[str], env: Mapping[str, str]) -> list[list[str]]:
    code, output = _ask(argv, env, time.monotonic() + 30)
    if code:
        return []
    try:
        entries = json.loads(output[output.index("[") :])
        return sorted([str(entry["name"]), str(entry["version"])] for entry in entries)
    except (ValueError, KeyError, TypeError):
        return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tail(log: int) -> str:
    size = os.fstat(log).st_size
    text = os.pread(log, 64 << 10, max(0, size - (64 << 10))).decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
