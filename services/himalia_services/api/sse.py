"""Server-sent events: how one is written, and an answer that lives as long as it has something to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse

#: Silence that is longer would be taken for a dead line.
COMMENT_SECONDS = 15.0
COMMENT = b":\n\n"


def event(data: Any, *, name: str = "", id: int | str = "") -> bytes:
    """One event; `data` becomes JSON, which never contains a line's end."""
    head = (f"event: {name}\n" if name else "") + (f"id: {id}\n" if id != "" else "")
    return f"{head}data: {json.dumps(data, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()


def mark(id: int) -> bytes:
    """Where a client resumes that loses the line before the first event. Browsers and ours keep it and show nothing."""
    return f"id: {id}\n\n".encode()


def response(
    request: Request, source: AsyncGenerator[bytes], *, alive: Callable[[], Awaitable[bool]] | None = None
) -> StreamingResponse:
    """`source` as an answer of text/event-stream. A comment each 15 s; it ends with the source, when the platform shuts down,
    and when `alive` (asked as often) says no more."""
    return StreamingResponse(
        _kept(source, request.app.state.closing, alive),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _kept(
    source: AsyncGenerator[bytes], closing: asyncio.Event, alive: Callable[[], Awaitable[bool]] | None
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    asked = spoke = loop.time()
    closed = asyncio.ensure_future(closing.wait())
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(source))
            rest = max(min(asked, spoke) + COMMENT_SECONDS - loop.time(), 0)
            await asyncio.wait({coming, closed}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                return
            if loop.time() - asked >= COMMENT_SECONDS:
                asked = loop.time()
                if alive is not None and not await alive():
                    return
            if coming.done():
                try:
                    piece = coming.result()
                except StopAsyncIteration:
                    return
                coming, spoke = None, loop.time()
                yield piece
            elif loop.time() - spoke >= COMMENT_SECONDS:
                spoke = loop.time()
                yield COMMENT
    finally:
        closed.cancel()
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await source.aclose()
