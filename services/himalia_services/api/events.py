"""What happens, as it happens: events as server-sent events, resumed after the last one a client saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import StreamingResponse

from himalia.schema import Event
from himalia_services.api import sse
from himalia_services.api.auth import Asking, alive
from himalia_services.api.deps import Deps
from himalia_services.control import event
from himalia_services.errors import Forbidden, Invalid
from himalia_services.model.caller import Caller
from himalia_services.parts import Parts
from himalia_services.store.db import Database

router = APIRouter(tags=["events"])

#: A commit that nobody told us of (another process on one database) is seen after this time.
RESYNC_SECONDS = 15.0


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Event after Event"}},
)
async def events(
    request: Request,
    caller: Asking,
    parts: Deps,
    everybody: Annotated[bool, Query(alias="all", description="Everybody's; for admins")] = False,
    last_event_id: Annotated[str, Header(description="Resume after this one; without it from now on")] = "",
) -> StreamingResponse:
    if everybody and not caller.admin:
        raise Forbidden("Only admins see what everybody does.")
    if last_event_id and not (last_event_id.isdecimal() and len(last_event_id) < 19):
        raise Invalid("Last-Event-ID is the id of an event, a number.", code="last_event_id")
    after = int(last_event_id) if last_event_id else None
    return sse.response(request, _follow(parts, caller, everybody, after), alive=alive(request, parts))


async def _follow(parts: Parts, caller: Caller, everybody: bool, after: int | None) -> AsyncGenerator[bytes]:
    woken = asyncio.Event()
    off = parts.db.on_commit(woken.set)
    try:
        last = after if after is not None else await _last(parts.db)
        yield sse.mark(last)
        while True:
            woken.clear()  # before reading: what is committed meanwhile wakes us again
            rows = await _next(parts.db, caller, everybody, last)
            for row in rows:
                yield sse.event(_wire(row), id=row.id)
                last = row.id
            if len(rows) < event.BATCH:
                await _wait(woken)
    finally:
        off()


async def _last(db: Database) -> int:
    async with db.read() as session:
        return await event.last(session)


async def _next(db: Database, caller: Caller, everybody: bool, after: int) -> Sequence[Any]:
    async with db.read() as session:
        return await event.after(session, caller, after, everybody=everybody)


async def _wait(woken: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(RESYNC_SECONDS):
            await woken.wait()
    except TimeoutError:
        return


def _wire(row: Any) -> dict[str, Any]:
    document = asdict(
        Event(
            id=row.id,
            time=row.time,
            actor=row.actor,
            target_kind=row.target_kind,
            target=row.target,
            owner=row.owner,
            status=row.status,
            reason_code=row.reason_code,
            reason_message=row.reason_message,
        )
    )
    return document | {"time": row.time.isoformat()}
