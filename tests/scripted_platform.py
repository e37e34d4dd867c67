"""A platform with a script: real HTTP on loopback, answers as the test wrote them, everything asked kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PREFIX = "/services/himalia/api/v1"
TOKEN = "token-of-ada"
TIME = "2026-01-02T03:04:05+00:00"


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """`drop` closes the connection, before anything is said or after the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


def ok(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def page(*items: Any, next_token: str | None = None) -> Answer:
    return ok({"items": list(items), "next_token": next_token})


def problem(status: int, code: str, detail: str, **more: Any) -> Answer:
    body = {
        "type": "about:blank",
        "title": "No",
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "req-1",
        **more,
    }
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


def stream(*events: tuple[str, Any], drop: bool = False) -> Answer:
    text = "".join(f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n" for name, data in events)
    return Answer(200, f": hello\n\n{text}".encode(), {"Content-Type": "text/event-stream"}, drop)


DROPPED = Answer(drop=True)
GATEWAY = Answer(502, b"<html>proxy</html>", {"Content-Type": "text/html"})

Script = Answer | Callable[[Asked], Answer]


class ScriptedPlatform:
    """Each route answers what its script says next; the last answer of a script is repeated."""

    def __init__(self, url: str, hub: str) -> None:
        self.url = url
        self.hub = hub
        self.asked: list[Asked] = []
        self._scripts: dict[tuple[str, str], list[Script]] = {}
        self._lock = threading.Lock()

    def on(self, method: str, path: str, *answers: Script) -> None:
        """`path` is below the API, or whole when it begins with two slashes."""
        self._scripts[method, path[1:] if path.startswith("//") else PREFIX + path] = list(answers)

    def calls(self, method: str, path: str) -> list[Asked]:
        whole = path[1:] if path.startswith("//") else PREFIX + path
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, whole)]

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            script = self._scripts.get((asked.method, asked.path))
            if script is None:
                return problem(404, "not_found", f"There is no {asked.path}.")
            said = script.pop(0) if len(script) > 1 else script[0]
        return said if isinstance(said, Answer) else said(asked)


@contextmanager
def serve() -> Iterator[ScriptedPlatform]:
    """A platform that answers on loopback, as ada's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            asked = Asked(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query)),
                {k.lower(): v for k, v in self.headers.items()},
                self.rfile.read(length),
            )
            said = platform.answer(asked)
            if said.drop:
                self.close_connection = True
            if said.drop and not said.body:
                return
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if said.drop:
                # More is promised than comes, as when a server dies in the middle.
                self.send_header("Content-Length", str(len(said.body) + 1000))
            else:
                self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port = server.server_port
    hub = f"http://himalia.localhost:{port}"
    platform = ScriptedPlatform(f"http://himalia--service.himalia.localhost:{port}/services/himalia", hub)
    platform.on("GET", "/me", ok({"name": "ada", "admin": False, "groups": ["vision"], "scopes": []}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def version(phase: str = "Saved", number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": "ver-1",
        "ref": f"ada/vision:{number}",
        "owner": "ada",
        "environment": "vision",
        "number": number,
        "phase": phase,
        "created_at": TIME,
        **more,
    }


def environment(*versions: dict[str, Any], **more: Any) -> dict[str, Any]:
    latest = versions[0] if versions else None
    return {
        "ref": "ada/vision",
        "owner": "ada",
        "name": "vision",
        "latest": latest,
        "versions": list(versions),
        "created_at": TIME,
        **more,
    }


def workspace(status: str = "Running", **more: Any) -> dict[str, Any]:
    return {"id": "ws-1", "owner": "ada", "name": "", "display_name": "", "status": status, "created_at": TIME, **more}


def job(status: str = "Queuing", **more: Any) -> dict[str, Any]:
    return {
        "id": "job-1",
        "owner": "ada",
        "display_name": "train.py",
        "kind": "script",
        "command": ["python", "train.py"],
        "environment": "ada/vision:1",
        "digest": "sha256:" + "0" * 64,
        "machine": "small",
        "working_dir": "/home/jovyan/work",
        "status": status,
        "created_at": TIME,
        **more,
    }


def whole_environment(platform: ScriptedPlatform, home: Any, **more: str) -> dict[str, str]:
    """The variables of a program that is logged in to `platform` and has nothing else."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "HIMALIA_URL": platform.url, "HIMALIA_TOKEN": TOKEN, **more}
