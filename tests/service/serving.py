"""An application on a real port of loopback, in the test's own loop: for answers that go on for long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator

import uvicorn
from starlette.types import ASGIApp


class Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Its address, as in http://127.0.0.1:41234; it ends when the block does."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Quiet(
        uvicorn.Config(
            app, loop="none", lifespan="off", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await task
