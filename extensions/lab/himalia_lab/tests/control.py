"""A scripted control plane: it answers like the real one, one step further with each question, and keeps what it was told."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

PREFIX = "/services/himalia"
NOW = "2026-11-23T10:00:00+00:00"
MACHINES = [
    {
        "name": "small",
        "display_name": "Small",
        "cpu": 1.0,
        "memory_bytes": 2_000_000_000,
        "shm_bytes": 0,
        "default": True,
    },
    {"name": "large", "display_name": "Large", "cpu": 4.0, "memory_bytes": 8_000_000_000, "shm_bytes": 0},
]


@dataclass
class Control:
    """The state of the script. `tokens` are those it knows, `refuse` a problem document it answers to each POST."""

    tokens: dict[str, str]
    save_steps: list[tuple[str, int, str]] = field(default_factory=list)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    refuse: dict[str, Any] | None = None
    pace: float = 0.0

    def names_in(self, digest: str) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(self.inputs[digest]), mode="r:gz") as tar:
            return tar.getnames()


def version(ref: str, phase: str, **more: Any) -> dict[str, Any]:
    path, _, number = ref.partition(":")
    owner, _, name = path.partition("/")
    return {
        "id": f"ver-{name}{number}",
        "ref": ref,
        "owner": owner,
        "environment": name,
        "number": int(number),
        "phase": phase,
        "reason_code": "",
        "reason_message": "",
        "status_history": [],
        "digest": "sha256:" + "0" * 64,
        "size_bytes": 412_000_000,
        "layers": 3,
        "warnings": [],
        "note": "",
        "created_at": NOW,
        "saved_at": NOW if phase == "Saved" else None,
        "progress_bytes": None,
        "progress_message": "",
        **more,
    }


def environment(ref: str, number: int, **more: Any) -> dict[str, Any]:
    owner, _, name = ref.partition("/")
    latest = version(f"{ref}:{number}", "Saved")
    return {
        "ref": ref,
        "owner": owner,
        "name": name,
        "description": "",
        "visibility": "private",
        "people": [],
        "group": None,
        "preset": False,
        "mine": False,
        "runs_as_you": "",
        "latest": latest,
        "versions": [latest],
        "created_at": NOW,
        **more,
    }


def job(job_id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "owner": "ada",
        "display_name": "train.py",
        "kind": "script",
        "command": [],
        "environment": "ada/vision:3",
        "digest": "sha256:" + "0" * 64,
        "machine": "small",
        "working_dir": "/home/jovyan/digits",
        "status": "Queuing",
        "reason_code": "",
        "reason_message": "",
        "status_history": [],
        "exit_code": None,
        "attempt": 1,
        "queue_position": None,
        "max_run_seconds": None,
        "input": None,
        "outputs": 0,
        "output_bytes": 0,
        "log_bytes": 0,
        "created_at": NOW,
        "started_at": None,
        "finished_at": None,
        **more,
    }


class Handler(RequestHandler):
    control: Control

    def initialize(self, control: Control) -> None:
        self.control = control

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", self.request.headers.get("Origin", "*"))
        self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, Last-Event-ID")
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
        self.set_header("Access-Control-Expose-Headers", "X-Request-ID")
        self.set_header("X-Request-ID", "req-0815")

    def options(self, *_: str) -> None:
        self.set_status(204)

    def prepare(self) -> None:
        if self.request.method == "OPTIONS":
            return
        token = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.control.requests.append({"method": self.request.method, "path": self.request.path, "token": token})
        if token not in self.control.tokens:
            self.problem(401, "unauthorized", "Log in first.")
        elif self.control.refuse and self.request.method == "POST":
            self.problem(**self.control.refuse)
        else:
            self.person = self.control.tokens[token]

    def problem(self, status: int, code: str, detail: str, link: str = "") -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        self.finish(
            json.dumps(
                {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
                | {"request_id": "req-0815", "link": link}
            )
        )

    def answer(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    def page(self, items: list[Any]) -> None:
        self.answer({"items": items, "next_token": None})

    def sent(self) -> Any:
        return json.loads(self.request.body)

    def event(self, name: str, data: Any, event_id: int) -> None:
        self.write(f"id: {event_id}\nevent: {name}\ndata: {json.dumps(data)}\n\n")


class Me(Handler):
    def get(self) -> None:
        self.answer({"name": self.person, "admin": False, "groups": ["vision"], "scopes": []})


class Machines(Handler):
    def get(self) -> None:
        self.page(MACHINES)


class Workspace(Handler):
    def get(self, workspace_id: str) -> None:
        saves = [e["latest"] for e in self.control.environments.values() if e["latest"].get("workspace_id")]
        self.answer(
            {
                "id": workspace_id,
                "owner": self.person,
                "name": "",
                "display_name": "",
                "status": "Running",
                "environment": "himalia/base:1",
                "machine": "small",
                "latest_snapshot": saves[-1] if saves else None,
            }
        )


class Saves(Handler):
    def post(self, workspace_id: str) -> None:
        wanted = self.sent()
        over = ("Saved", "Failed")
        running = next(
            (e["latest"] for e in self.control.environments.values() if e["latest"]["phase"] not in over), None
        )
        if running:
            link = f"/environments/{running['owner']}/{running['environment']}/versions/{running['number']}"
            self.problem(409, "save_running", f"{running['ref']} is being saved from this workspace.", link)
            return
        ref = f"{self.person}/{wanted['name']}"
        known = self.control.environments.get(ref)
        number = known["latest"]["number"] + 1 if known else 1
        made = version(f"{ref}:{number}", "Committing", workspace_id=workspace_id, note=wanted["note"])
        made["status_history"] = [{"status": "Committing", "start_time": now(), "end_time": None}]
        self.control.environments[ref] = {
            **environment(ref, number, mine=True),
            "latest": made,
            "versions": [made, *(known["versions"] if known else [])],
        }
        self.answer(made, 202)


def now() -> str:
    return datetime.now(UTC).isoformat()


class Environments(Handler):
    def get(self) -> None:
        self.page([{**e, "versions": []} for e in self.control.environments.values()])


class Environment(Handler):
    def get(self, owner: str, name: str) -> None:
        self.answer(self.control.environments[f"{owner}/{name}"])

    def patch(self, owner: str, name: str) -> None:
        wanted = self.sent()
        if "nobody" in wanted["people"]:
            self.problem(422, "unknown_person", "There is no person called nobody.")
            return
        self.control.environments[f"{owner}/{name}"] |= wanted
        self.answer(self.control.environments[f"{owner}/{name}"])


class Version(Handler):
    def get(self, owner: str, name: str, number: str) -> None:
        found = next(v for v in self.control.environments[f"{owner}/{name}"]["versions"] if v["number"] == int(number))
        if found["phase"] not in ("Saved", "Failed") and self.control.save_steps:
            phase, progress, message = self.control.save_steps.pop(0)
            if phase != found["phase"]:
                found["status_history"][-1]["end_time"] = now()
                found["status_history"].append({"status": phase, "start_time": now(), "end_time": None})
            found |= {"phase": phase, "progress_bytes": progress, "progress_message": message}
            if phase == "Failed":
                found |= {"reason_code": "push_failed", "reason_message": "The registry did not answer for a minute."}
                found |= {"progress_message": ""}
        self.answer(found)


class Input(Handler):
    def head(self, digest: str) -> None:
        if digest not in self.control.inputs:
            self.set_status(404)

    def put(self, digest: str) -> None:
        body = self.request.body
        if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
            self.problem(422, "digest", "The bytes are not those of the digest.")
            return
        self.control.inputs[digest] = body
        self.answer({"digest": digest, "size_bytes": len(body), "files": 1}, 201)


class Jobs(Handler):
    def get(self) -> None:
        self.page(list(self.control.jobs.values())[::-1])

    def post(self) -> None:
        wanted = self.sent()
        job_id = f"job-{len(self.control.jobs):012d}"
        made = job(
            job_id,
            owner=self.person,
            kind=wanted["kind"],
            display_name=wanted.get("display_name", ""),
            environment=wanted["environment"],
            working_dir=wanted["working_dir"],
            input=wanted["input"],
            max_run_seconds=wanted.get("max_run_seconds"),
            created_at=now(),
            queue_position=2,
        )
        self.control.jobs[job_id] = made
        self.control.requests[-1]["body"] = wanted
        self.answer(made, 202)


class Job(Handler):
    def get(self, job_id: str) -> None:
        if job_id not in self.control.jobs:
            self.problem(404, "not_found", f"There is no job {job_id}.")
            return
        self.answer(self.control.jobs[job_id])

    def delete(self, job_id: str) -> None:
        del self.control.jobs[job_id]
        self.set_status(204)


class Stop(Handler):
    def post(self, job_id: str) -> None:
        self.control.jobs[job_id] |= {"status": "Stopped", "queue_position": None, "finished_at": now()}
        self.answer(self.control.jobs[job_id], 202)


class Log(Handler):
    async def get(self, job_id: str) -> None:
        chunks = self.control.logs.get(job_id, [])
        if "event-stream" not in self.request.headers.get("Accept", ""):
            self.set_header("Content-Type", "text/plain")
            self.finish("".join(chunks))
            return
        self.set_header("Content-Type", "text/event-stream")
        offset = int(self.get_argument("offset", "0"))
        at = 0
        for chunk in chunks:
            end = at + len(chunk.encode())
            if at >= offset:
                self.event("log", {"offset": at, "text": chunk}, end)
                await self.flush()
                await asyncio.sleep(self.control.pace)
            at = end
        found = self.control.jobs[job_id]
        if found["status"] in ("Queuing", "Running"):
            found |= {"status": "Succeeded", "exit_code": 0, "finished_at": now(), "queue_position": None}
            found |= {"outputs": len(self.control.outputs.get(job_id, {})), "output_bytes": 1234}
        self.event("end", {"status": found["status"], "exit_code": found["exit_code"]}, at)


class Outputs(Handler):
    def get(self, job_id: str) -> None:
        self.page(
            [
                {
                    "path": path,
                    "size_bytes": len(data),
                    "change": "new",
                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                }
                for path, data in self.control.outputs.get(job_id, {}).items()
            ]
        )


class Output(Handler):
    def get(self, job_id: str, path: str) -> None:
        self.finish(self.control.outputs[job_id][path])


class Events(Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        seen: dict[str, str] = {}
        number = int(self.request.headers.get("Last-Event-ID") or 0)
        self.write(": hello\n\n")
        while not self.request.connection.stream.closed():  # type: ignore[union-attr]
            for job_id, found in list(self.control.jobs.items()):
                if seen.get(job_id) != found["status"]:
                    seen[job_id] = found["status"]
                    number += 1
                    self.event(
                        "job", {"id": number, "target_kind": "job", "target": job_id, "status": found["status"]}, number
                    )
            await self.flush()
            await asyncio.sleep(0.2)


def application(control: Control) -> Application:
    api = f"{PREFIX}/api/v1"
    routes = [
        ("/me", Me),
        ("/machines", Machines),
        ("/workspaces/([^/]+)", Workspace),
        ("/workspaces/([^/]+)/environments", Saves),
        ("/environments", Environments),
        ("/environments/([^/]+)/([^/]+)", Environment),
        ("/environments/([^/]+)/([^/]+)/versions/([0-9]+)", Version),
        ("/inputs/(sha256:[0-9a-f]+)", Input),
        ("/jobs", Jobs),
        ("/jobs/([^/]+)", Job),
        ("/jobs/([^/]+)/stop", Stop),
        ("/jobs/([^/]+)/log", Log),
        ("/jobs/([^/]+)/outputs", Outputs),
        ("/jobs/([^/]+)/outputs/(.+)", Output),
        ("/events", Events),
    ]
    return Application([(api + path, handler, {"control": control}) for path, handler in routes])


class Running:
    """The scripted control plane on a loop and a thread of its own, so that blocking callers can be tested."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        socket, port = bind_unused_port()
        server = HTTPServer(application(self.control))
        server.add_sockets([socket])
        self.url = f"http://127.0.0.1:{port}{PREFIX}"
        self._ready.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()
