"""Running a command in a workspace: our websocket against another implementation, and a kernel that plays its part."""

from __future__ import annotations

import ast
import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from himalia import _kernel, errors, schema
from himalia._websocket import Closed, WebSocket
from himalia.client import Himalia
from himalia.login import Login
from himalia.schema import from_wire
from scripted_platform import TOKEN

Talk = Callable[[web.WebSocketResponse], Coroutine[Any, Any, None]]


@asynccontextmanager
async def server(talk: Talk | None = None, *, refuse: int = 0) -> AsyncIterator[tuple[str, list[str]]]:
    """A Jupyter server with one kernel whose channel is `talk`; its address."""
    app = web.Application()
    deleted: list[str] = []

    async def kernels(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"token {TOKEN}"
        return web.json_response({"id": "k1"}, status=201)

    async def delete(request: web.Request) -> web.Response:
        deleted.append(request.match_info["id"])
        return web.Response(status=204)

    async def channels(request: web.Request) -> web.StreamResponse:
        if refuse:
            return web.Response(status=refuse)
        assert request.host.startswith("ada.himalia.localhost:")
        socket = web.WebSocketResponse(max_msg_size=0, autoping=True)
        await socket.prepare(request)
        assert talk is not None
        await talk(socket)
        await socket.close()
        return socket

    app.router.add_post("/user/ada/api/kernels", kernels)
    app.router.add_delete("/user/ada/api/kernels/{id}", delete)
    app.router.add_get("/user/ada/api/kernels/k1/channels", channels)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://ada.himalia.localhost:{port}/user/ada", deleted
    finally:
        await runner.cleanup()


def opened(url: str, **more: Any) -> WebSocket:
    return WebSocket(f"{url}/api/kernels/k1/channels", headers={"Authorization": f"token {TOKEN}"}, **more)


class TestWebSocket:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 3_000_000])
    async def test_messages_of_every_length_class_come_back_as_they_were(self, size: int) -> None:
        async def echo(socket: web.WebSocketResponse) -> None:
            async for message in socket:
                await socket.send_str(message.data)

        text = "é" * (size // 2) + "x" * (size % 2)

        def client(url: str) -> str:
            with opened(url) as socket:
                socket.send(text)
                return socket.receive()

        async with server(echo) as (url, _):
            assert await asyncio.to_thread(client, url) == text

    async def test_binary_messages_are_passed_over(self) -> None:
        async def talk(socket: web.WebSocketResponse) -> None:
            await socket.send_bytes(b"\0\1")
            await socket.send_str("one")
            await socket.receive()

        def client(url: str) -> str:
            with opened(url) as socket:
                return socket.receive()

        async with server(talk) as (url, _):
            assert await asyncio.to_thread(client, url) == "one"

    async def test_the_end_of_the_connection_is_an_error_with_a_sentence(self) -> None:
        async def talk(socket: web.WebSocketResponse) -> None:
            return

        def client(url: str) -> None:
            with opened(url) as socket:
                socket.receive()

        async with server(talk) as (url, _):
            with pytest.raises(Closed):
                await asyncio.to_thread(client, url)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(403, errors.Forbidden), (404, errors.NotFound), (500, errors.Unavailable), (200, errors.Unavailable)],
    )
    async def test_a_server_that_opens_none_is_an_error_by_its_answer(self, status: int, kind: type[Exception]) -> None:
        async with server(refuse=status) as (url, _):
            with pytest.raises(kind):
                await asyncio.to_thread(opened, url)

    async def test_a_message_in_pieces_is_one_message_and_a_ping_between_them_is_answered(self) -> None:
        pongs: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()

        async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            import base64
            import hashlib

            asked = (await reader.readuntil(b"\r\n\r\n")).decode()
            key = next(line.split(": ")[1] for line in asked.splitlines() if line.startswith("Sec-WebSocket-Key"))
            accept = base64.b64encode(
                hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            ).decode()
            writer.write(
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            # A ping may come between the pieces of a message.
            writer.write(b"\x01\x03one" + b"\x89\x01!" + b"\x00\x01 " + b"\x80\x03two")
            await writer.drain()
            head, mask, payload = await reader.readexactly(2), await reader.readexactly(4), await reader.readexactly(1)
            pongs.put_nowait((head, payload[0] ^ mask[0]))
            await reader.read()
            writer.close()

        def client(port: int) -> str:
            with WebSocket(f"http://x.localhost:{port}/", headers={}) as socket:
                return socket.receive()

        listening = await asyncio.start_server(raw, "127.0.0.1", 0)
        async with listening:
            assert await asyncio.to_thread(client, listening.sockets[0].getsockname()[1]) == "one two"
            assert await pongs.get() == (b"\x8a\x81", ord("!"))


def says(parent: dict[str, Any], kind: str, **content: Any) -> str:
    return json.dumps(
        {
            "header": {"msg_type": kind},
            "msg_type": kind,
            "parent_header": parent,
            "content": content,
            "channel": "iopub",
        }
    )


def plays_kernel(*output: str, status: str = "ok", code: str | None = None, reply_first: bool = False) -> Talk:
    """A kernel that runs the cell it gets for real, in a thread, and answers as Jupyter does; or one that says `output`."""

    async def talk(socket: web.WebSocketResponse) -> None:
        message = await socket.receive()
        assert message.type == WSMsgType.TEXT
        request = json.loads(message.data)
        parent = request["header"]
        await socket.send_str(says({"msg_id": "of somebody else"}, "stream", name="stdout", text="not mine"))
        await socket.send_str(says(parent, "status", execution_state="busy"))
        reply = says(
            parent,
            "execute_reply",
            status=status,
            evalue="No such file: nothing",
            user_expressions={"code": {"data": {"text/plain": code or "0"}}},
        )
        if reply_first:
            await socket.send_str(reply)
        for text in output:
            await socket.send_str(says(parent, "stream", name="stdout", text=text))
        await socket.send_str(says(parent, "status", execution_state="idle"))
        if not reply_first:
            await socket.send_str(reply)
        await socket.receive()

    return talk


def run(url: str, command: Any = ("true",), **more: Any) -> _kernel.Finished:
    urls = {name: f"{url}/{name}" for name in ("lab", "vscode", "terminal", "tensorboard")}
    info = from_wire(
        schema.Workspace,
        {
            "id": "ws-1",
            "owner": "ada",
            "name": "",
            "display_name": "",
            "status": "Running",
            "urls": urls,
            "created_at": "2026-01-02T03:04:05Z",
        },
    )
    options = {"cwd": "~", "env": {}, "check": True, "output": None, "timeout": 20.0} | more
    with Himalia(Login("http://x.localhost/services/himalia", TOKEN, "argument"), environ={}) as himalia:
        return _kernel.run(himalia, info, command, **options)


class TestRun:
    @pytest.mark.parametrize("reply_first", [True, False])
    async def test_output_and_exit_code_come_back_in_whatever_order_the_kernel_says_them(
        self, reply_first: bool
    ) -> None:
        heard: list[str] = []
        async with server(plays_kernel("one\n", "two\n", reply_first=reply_first)) as (url, deleted):
            finished = await asyncio.to_thread(run, url, ["pip", "list"], output=heard.append)
        assert (finished.exit_code, finished.output, heard) == (0, "one\ntwo\n", ["one\n", "two\n"])
        assert deleted == ["k1"]

    async def test_a_command_that_fails_is_an_error_with_its_last_lines(self) -> None:
        async with server(plays_kernel("ERROR: no such package\n", code="3")) as (url, deleted):
            with pytest.raises(errors.CommandFailed, match="exit code 3:\nERROR: no such package") as caught:
                await asyncio.to_thread(run, url)
            assert caught.value.finished.exit_code == 3
            assert (await asyncio.to_thread(run, url, check=False)).exit_code == 3
        assert deleted == ["k1", "k1"]

    async def test_a_signal_is_128_and_its_number(self) -> None:
        async with server(plays_kernel(code="-9")) as (url, _):
            assert (await asyncio.to_thread(run, url, check=False)).exit_code == 137

    async def test_a_command_that_cannot_be_run_is_said_so(self) -> None:
        async with server(plays_kernel(status="error")) as (url, _):
            with pytest.raises(errors.HimaliaError, match="No such file"):
                await asyncio.to_thread(run, url)

    async def test_a_kernel_that_dies_is_an_error_at_once(self) -> None:
        async def dies(socket: web.WebSocketResponse) -> None:
            await socket.receive()
            await socket.send_str(says({}, "status", execution_state="restarting"))
            await socket.receive()

        async with server(dies) as (url, deleted):
            with pytest.raises(errors.HimaliaError, match="kernel does not start"):
                await asyncio.to_thread(run, url)
        assert deleted == ["k1"]

    async def test_a_kernel_the_server_gave_up_is_the_same_error(self) -> None:
        async with server(refuse=404) as (url, _):
            with pytest.raises(errors.HimaliaError, match="kernel does not start"):
                await asyncio.to_thread(run, url)

    async def test_a_server_that_ends_the_connection_before_the_kernel_said_anything_means_the_same(self) -> None:
        async def leaves(socket: web.WebSocketResponse) -> None:
            await socket.receive()

        async with server(leaves) as (url, _):
            with pytest.raises(errors.HimaliaError, match="kernel does not start"):
                await asyncio.to_thread(run, url)

    async def test_a_connection_that_ends_while_the_command_runs_is_said_so(self) -> None:
        async def leaves(socket: web.WebSocketResponse) -> None:
            request = json.loads((await socket.receive()).data)
            await socket.send_str(says(request["header"], "status", execution_state="busy"))

        async with server(leaves) as (url, _):
            with pytest.raises(errors.Unavailable, match="ended the connection"):
                await asyncio.to_thread(run, url)

    async def test_one_that_never_ends_is_given_up_and_its_kernel_with_it(self) -> None:
        async def silent(socket: web.WebSocketResponse) -> None:
            await socket.receive()
            await socket.receive()

        async with server(silent) as (url, deleted):
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(run, url, timeout=0.2)
        assert deleted == ["k1"]


def test_the_cell_runs_a_command_where_and_with_what_it_was_told(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {
        "argv": ["bash", "-c", "pwd; echo $GREETING 'and \"quotes\"' >&2; exit 4"],
        "cwd": str(tmp_path),
        "env": {"GREETING": "héllo"},
    }
    cell = _kernel._CELL.format(call=json.dumps(call))
    ast.parse(cell)
    names: dict[str, Any] = {}
    exec(cell, names)
    assert names["_himalia_code"] == 4
    assert capsys.readouterr().out == f'{os.path.realpath(tmp_path)}\nhéllo and "quotes"\n'
