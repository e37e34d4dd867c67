"""The internal API with a script: what the hub's side of it is tested against where no control plane is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Answer = tuple[int, Json]

TOKEN = "internal-token-of-a-test"


class ScriptedControl:
    """Answers each call with what its script says next; the last answer of a script is repeated. Keeps what it was asked."""

    def __init__(self) -> None:
        self.plans: list[Answer] = []
        self.versions: list[Answer] = []
        self.preserve: Answer = (202, {"id": "ver-1", "phase": "Committing"})
        self.offer: Answer = (200, {"environments": [], "machines": [], "environment": "", "machine": "", "locked": ""})
        self.asked: list[tuple[str, Json]] = []

    def calls(self, path: str) -> list[Json]:
        return [body for where, body in self.asked if where == path]

    def phases(self) -> list[str]:
        return [body["status"] for body in self.calls("/internal/phase")]

    @asynccontextmanager
    async def serve(self, socket: Path) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/internal/launch-plan", self._from(lambda: _next(self.plans)))
        app.router.add_post("/internal/preserve", self._from(lambda: self.preserve))
        app.router.add_get("/internal/versions/{id}", self._from(lambda: _next(self.versions)))
        app.router.add_post("/internal/adopted", self._from(lambda: (204, {})))
        app.router.add_post("/internal/phase", self._from(lambda: (204, {})))
        app.router.add_get("/internal/options", self._from(lambda: self.offer))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        try:
            yield
        finally:
            await runner.cleanup()

    def _from(self, script: Callable[[], Answer]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return web.json_response({"code": "unauthorized", "detail": "wrong token"}, status=401)
            body = await request.json() if request.can_read_body else dict(request.query)
            self.asked.append((request.path, body))
            status, answer = script()
            return web.Response(status=204) if status == 204 else web.json_response(answer, status=status)

        return handle


def _next(script: list[Answer]) -> Answer:
    return script.pop(0) if len(script) > 1 else script[0]


def refusal(status: int, code: str, detail: str, **more: object) -> Answer:
    """A problem document."""
    return status, {"type": "about:blank", "title": "No", "status": status, "code": code, "detail": detail, **more}


def plan(folder: Path, **changes: Any) -> Json:
    """A whole launch plan of Ada's default workspace."""
    return {
        "workspace_id": "ws-00000000000a",
        "container": "himalia-0badcafe-ws-00000000000a",
        "network": "himalia-0badcafe",
        "image": {"repository": "himalia/base", "digest": "sha256:" + "d" * 64, "config_digest": "sha256:" + "c" * 64},
        "environment": "himalia/base:1",
        "runs_as_you": "",
        "machine": {"name": "small", "cpu": 1.5, "memory_bytes": 2**30, "shm_bytes": 2**26},
        "mounts": [
            {"source": "himalia-0badcafe-home-p-00000000000a", "target": "/home/jovyan", "read_only": False},
            {
                "source": "himalia-0badcafe-group-0123456789abcdef",
                "target": "/home/jovyan/shared/vision",
                "read_only": False,
            },
        ],
        "mounts_hash": "m1",
        "run_folder": str(folder / "run" / "workspaces" / "ws-00000000000a"),
        "labels": {"himalia.instance": "0badcafe", "himalia.kind": "workspace", "himalia.workspace": "ws-00000000000a"},
        "env": {"HIMALIA_URL": "http://192.0.2.1:8082/services/himalia", "MEM_LIMIT": "1073741824", "CPU_LIMIT": "1.5"},
    } | changes
