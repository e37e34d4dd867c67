"""Running a command in a workspace: through a kernel of its Jupyter server, by the messages notebooks use."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from himalia import schema
from himalia._connection import make_http, refusal
from himalia._websocket import Closed, WebSocket
from himalia.errors import CommandFailed, Conflict, HimaliaError, NotFound, Unavailable, WaitTimeout

if TYPE_CHECKING:
    import httpx

    from himalia.client import Himalia

#: What the kernel executes. The code of the command comes back as an expression's value, apart from what it prints.
_CELL = """
def _himalia_run(argv, cwd, env):
    import os, subprocess, sys
    folder = os.path.expanduser(cwd)
    with subprocess.Popen(argv, cwd=folder, env={{**os.environ, **env}}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while chunk := process.stdout.read1(65536):
            sys.stdout.write(chunk.decode(errors="replace"))
            sys.stdout.flush()
    return process.returncode
_himalia_code = _himalia_run(**__import__("json").loads({call!r}))
"""


_GONE = frozenset({"dead", "restarting", "autorestarting"})


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code (128 + n for signal n), and its stdout and stderr in the order they came."""

    command: Sequence[str]
    exit_code: int
    output: str


def run(
    himalia: Himalia,
    workspace: schema.Workspace,
    command: str | Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    check: bool,
    output: Callable[[str], None] | None,
    timeout: float,
) -> Finished:
    """`Workspace.run`."""
    argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
    if workspace.status != "Running" or workspace.urls is None:
        raise Conflict(f"The workspace is {workspace.status}; start it first.", code="not_running")
    server = server_url(workspace.urls.lab)
    headers = {"Authorization": f"token {himalia.login.token}"}
    with make_http(server, direct=False) as http:
        kernel = _ask(himalia, http, "POST", f"{server}/api/kernels", headers, {"name": "python3"})["id"]
        try:
            session = uuid.uuid4().hex
            with _channel(
                f"{server}/api/kernels/{quote(kernel)}/channels?session_id={session}", headers=headers
            ) as channel:
                cell = _CELL.format(call=json.dumps({"argv": argv, "cwd": cwd, "env": dict(env)}))
                code, text = _execute(channel, session, cell, output, time.monotonic() + timeout)
        finally:
            # A kernel that died is gone already, and what went wrong before matters more than this.
            with suppress(HimaliaError):
                _ask(himalia, http, "DELETE", f"{server}/api/kernels/{quote(kernel)}", headers)
    finished = Finished(argv, code if code >= 0 else 128 - code, text)
    if check and finished.exit_code:
        last = "\n".join(text.strip().splitlines()[-5:])
        error = CommandFailed(
            f"{' '.join(argv)[:200]} ended with exit code {finished.exit_code}:\n{last}", code="exit_code"
        )
        error.finished = finished
        raise error
    return finished


def broken() -> HimaliaError:
    return HimaliaError(
        "The workspace's Python kernel does not start, so nothing can be run this way. In a terminal there: pip install -U ipykernel",
        code="kernel_broken",
    )


def server_url(lab: str) -> str:
    """The address of a workspace's server, from that of its lab."""
    return lab.split("?", 1)[0].rstrip("/").removesuffix("/lab")


def _channel(url: str, *, headers: Mapping[str, str]) -> WebSocket:
    try:
        return WebSocket(url, headers=headers)
    except (TimeoutError, NotFound, Closed):
        # The server opens a channel once the kernel has answered, and forgets one that dies again and again.
        raise broken() from None


def _ask(
    himalia: Himalia, http: httpx.Client, method: str, url: str, headers: Mapping[str, str], body: Any = None
) -> Any:
    import httpx

    try:
        response = http.request(method, url, headers=dict(headers), json=body)
    except httpx.TransportError as error:
        raise Unavailable(f"The workspace's server does not answer ({error}).", code="unreachable") from error
    if not response.is_success:
        raise refusal(response, himalia.login)
    return response.json() if response.content else None


def _execute(
    channel: WebSocket, session: str, cell: str, output: Callable[[str], None] | None, deadline: float
) -> tuple[int, str]:
    id = uuid.uuid4().hex
    channel.send(json.dumps(_request(id, session, cell)))
    pieces: list[str] = []
    code: int | None = None
    idle = heard = False
    while code is None or not idle:
        try:
            message = _receive(channel, deadline)
        except Closed:
            if heard:
                raise
            raise broken() from None
        # Said by the server of a kernel that ended, and so in answer to nobody.
        if message.get("content", {}).get("execution_state") in _GONE:
            raise broken()
        if message.get("parent_header", {}).get("msg_id") != id:
            continue
        heard = True
        kind, content = (
            message["msg_type"] if "msg_type" in message else message["header"]["msg_type"],
            message["content"],
        )
        if kind == "stream":
            pieces.append(content["text"])
            if output is not None:
                output(content["text"])
        elif kind == "status":
            idle = content["execution_state"] == "idle"
        elif kind == "execute_reply":
            code = _code(content)
    return code, "".join(pieces)


def _receive(channel: WebSocket, deadline: float) -> dict[str, Any]:
    try:
        channel.settimeout(max(0.1, deadline - time.monotonic()))
        return json.loads(channel.receive())
    except TimeoutError:
        raise WaitTimeout("The command did not end in time; it was ended.", code="wait_timeout") from None


def _request(id: str, session: str, cell: str) -> dict[str, Any]:
    return {
        "channel": "shell",
        "header": {
            "msg_id": id,
            "session": session,
            "username": "himalia",
            "msg_type": "execute_request",
            "version": "5.3",
            "date": "",
        },
        "parent_header": {},
        "metadata": {},
        "buffers": [],
        "content": {
            "code": cell,
            "silent": False,
            "store_history": False,
            "allow_stdin": False,
            "stop_on_error": True,
            "user_expressions": {"code": "_himalia_code"},
        },
    }


def _code(reply: Mapping[str, Any]) -> int:
    if reply.get("status") != "ok":
        raise HimaliaError(
            f"The command could not be run: {reply.get('evalue') or reply.get('ename') or 'the kernel refused it'}",
            code="not_run",
        )
    value = reply["user_expressions"]["code"]
    return int(value["data"]["text/plain"])
