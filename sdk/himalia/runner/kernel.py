"""Runs one cell in a server's default kernel, over the kernel's channels: `kernel.py HOST:PORT/PREFIX/ SECONDS`.

The boot check starts it under /opt/himalia's Python, where tornado is. `POST /api/kernels` says 201 for a kernel that is
dying already, so only an executed cell counts. The token is in HIMALIA_BOOT_TOKEN.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from typing import Any


async def execute(address: str, token: str) -> None:
    """Run `1 + 1`; SystemExit with a sentence when the kernel does not answer 2."""
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest
    from tornado.websocket import websocket_connect

    headers = {"Authorization": f"token {token}"}
    client = AsyncHTTPClient()
    made = await client.fetch(HTTPRequest(f"http://{address}api/kernels", "POST", headers, body="{}"))
    kernel = json.loads(made.body)["id"]
    channels = await websocket_connect(HTTPRequest(f"ws://{address}api/kernels/{kernel}/channels", headers=headers))
    request = _request("1 + 1")
    await channels.write_message(json.dumps(request))
    answer = ""
    while (raw := await channels.read_message()) is not None:
        message = json.loads(raw)
        state = message["content"].get("execution_state")
        if state == "dead":
            sys.exit("the kernel died before it ran a cell")
        if message.get("parent_header", {}).get("msg_id") != request["header"]["msg_id"]:
            continue
        if message["msg_type"] == "execute_result":
            answer = message["content"]["data"].get("text/plain", "")
        elif message["msg_type"] == "error":
            sys.exit(f"{message['content']['ename']}: {message['content']['evalue']}")
        elif state == "idle":
            sys.exit(0 if answer == "2" else f"1 + 1 gave {answer or 'nothing'}")
    sys.exit("the kernel's channels closed before it ran a cell")


def _request(code: str) -> dict[str, Any]:
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return {
        "channel": "shell",
        "header": {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": uuid.uuid4().hex,
            "username": "",
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }


def main() -> None:
    address, seconds = sys.argv[1], float(sys.argv[2])
    token = os.environ["HIMALIA_BOOT_TOKEN"]
    try:
        asyncio.run(asyncio.wait_for(execute(address, token), seconds))
    except TimeoutError:
        sys.exit("the kernel did not answer in time")


if __name__ == "__main__":
    main()
