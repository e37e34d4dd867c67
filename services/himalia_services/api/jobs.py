"""Jobs: submit, list, stop, delete, their log as it grows, and what they made."""

from __future__ import annotations

import asyncio
import base64
import binascii
import codecs
import posixpath
import re
import tarfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.responses import StreamingResponse

from himalia.schema import Job, JobRequest, Output, Page
from himalia_services.api import sse
from himalia_services.api.auth import alive, needs
from himalia_services.api.deps import Deps
from himalia_services.api.idempotency import Idempotent
from himalia_services.api.paging import Pages
from himalia_services.control import job as jobs
from himalia_services.control.idempotency import remember, replay
from himalia_services.errors import Forbidden, Invalid, NotFound
from himalia_services.model import job as values
from himalia_services.model import pack
from himalia_services.model.caller import Caller
from himalia_services.model.phases import terminal
from himalia_services.parts import Parts
from himalia_services.settings import SERVICE_PATH
from himalia_services.store import tables as t
from himalia_services.store.files import CHUNK, Files
from himalia_services.store.page import page

router = APIRouter(tags=["jobs"])

Reader = Annotated[Caller, Depends(needs("jobs:read"))]
Writer = Annotated[Caller, Depends(needs("jobs:write"))]

#: A log that is written to is looked at as often.
TAIL_SECONDS = 0.25
_BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_SAFE = re.compile(r"[^A-Za-z0-9._-]")


@router.get("/jobs")
async def index(
    caller: Reader,
    parts: Deps,
    paging: Pages,
    status: Annotated[list[str], Query(description="Any of these")] = [],  # noqa: B006
    everybody: Annotated[bool, Query(alias="all", description="Everybody's; for admins")] = False,
) -> Page[Job]:
    if everybody and not caller.admin:
        raise Forbidden("Only admins see everybody's jobs.")
    async with parts.db.read() as session:
        rows, next_token = await page(session, jobs.listed(caller, status, everybody=everybody), t.Job, paging)
        return Page(items=await jobs.jobs(session, rows), next_token=next_token)


@router.post("/jobs", status_code=202)
async def submit(request: JobRequest, caller: Writer, parts: Deps, key: Idempotent, response: Response) -> Job:
    """Put a job into the queue. It runs what was packed, in the environment as it is now, whatever changes afterwards."""
    async with parts.db.write() as session:
        made = await replay(session, caller, key)
        if made is not None:
            row = await jobs.find(session, caller, made)
        else:
            row = await jobs.submit(session, parts.settings, parts.catalog, caller, request)
            await remember(session, caller, key, row.id)
        response.headers["Location"] = f"{SERVICE_PATH}/api/v1/jobs/{row.id}"
        return await jobs.job(session, row)


@router.get("/jobs/{id}")
async def show(id: str, caller: Reader, parts: Deps) -> Job:
    async with parts.db.read() as session:
        return await jobs.job(session, await jobs.find(session, caller, id))


@router.post("/jobs/{id}/stop", status_code=202)
async def stop(id: str, caller: Writer, parts: Deps) -> Job:
    """TERM, and KILL ten seconds later. What it made by then is kept."""
    async with parts.db.write() as session:
        row = await jobs.find(session, caller, id)
        jobs.stop(session, caller, row)
        return await jobs.job(session, row)


@router.delete("/jobs/{id}", status_code=202)
async def delete(id: str, caller: Writer, parts: Deps) -> Job:
    """Delete a job with its log and outputs; one that is not over is stopped first."""
    async with parts.db.write() as session:
        row = await jobs.find(session, caller, id)
        jobs.delete(session, caller, row)
        return await jobs.job(session, row)


# The log


@router.get(
    "/jobs/{id}/log",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"text/plain": {}, "text/event-stream": {}},
            "description": "From byte `offset`. As events: `log` {offset, next, text} whose id is `next`, then `end` {status, exit_code}",
        }
    },
)
async def log(
    id: str,
    request: Request,
    caller: Reader,
    parts: Deps,
    offset: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header(description="Resume after this event")] = "",
) -> StreamingResponse:
    """The log as it is now, or as it grows."""
    async with parts.db.read() as session:
        row = await jobs.find(session, caller, id)
    if "text/event-stream" in accept:
        if last_event_id.isdecimal() and len(last_event_id) < 19:
            offset = max(offset, int(last_event_id))
        return sse.response(request, _follow(parts, id, offset), alive=alive(request, parts))
    return StreamingResponse(_text(parts, row, offset), media_type="text/plain; charset=utf-8")


async def _text(parts: Parts, row: t.Job, offset: int) -> AsyncIterator[bytes]:
    sent = False
    async for data in _bytes(parts, row, offset):
        sent = True
        yield data
    if sent or terminal("job", row.status):
        return
    # The container may have gone since the row was read: then the log is kept by now.
    later = await _load(parts, row.id)
    if later is not None and terminal("job", later.status):
        async for data in _bytes(parts, later, offset):
            yield data


def _bytes(parts: Parts, row: t.Job, offset: int) -> AsyncIterator[bytes]:
    if terminal("job", row.status):
        return parts.files.read_log(row.id, row.attempt, offset=offset)
    return parts.engine.logs(values.workload_id(row.id, row.attempt), offset=offset)


async def _follow(parts: Parts, id: str, offset: int) -> AsyncGenerator[bytes]:
    """Each byte once. The row is read before the log: once it says that the job is over, the log is whole and kept."""
    pieces = Pieces(offset)
    while True:
        row = await _load(parts, id)
        if row is None:
            yield sse.event({"status": "Deleted", "exit_code": None}, name="end")
            return
        async for data in _bytes(parts, row, pieces.read):
            for event in pieces.take(data):
                yield event
        if terminal("job", row.status):
            for event in pieces.take(b"", last=True):
                yield event
            yield sse.event({"status": row.status, "exit_code": row.exit_code}, name="end")
            return
        await asyncio.sleep(TAIL_SECONDS)


class Pieces:
    """Bytes as `log` events of text: a character that is cut by a read waits for its rest."""

    def __init__(self, offset: int) -> None:
        self.read = self.sent = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, data: bytes, *, last: bool = False) -> Iterator[bytes]:
        text = self._decoder.decode(data, last)
        self.read += len(data)
        start, self.sent = self.sent, self.read - len(self._decoder.getstate()[0])
        if text:
            yield sse.event({"offset": start, "next": self.sent, "text": text}, name="log", id=self.sent)


async def _load(parts: Parts, id: str) -> t.Job | None:
    async with parts.db.read() as session:
        return await session.get(t.Job, id)


# Outputs


@router.get("/jobs/{id}/outputs")
async def outputs(
    id: str,
    caller: Reader,
    parts: Deps,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    page_token: Annotated[str, Query(max_length=8192)] = "",
) -> Page[Output]:
    """New and changed files of the job's folder, by path."""
    async with parts.db.read() as session:
        row = await jobs.find(session, caller, id)
        found = await jobs.outputs(session, row, after=_place(page_token), limit=limit + 1)
    items = [
        Output(path=path, size_bytes=one.size_bytes, digest=one.digest, change=one.change)  # pyright: ignore[reportArgumentType]
        for path, one in found[:limit]
    ]
    return Page(items=items, next_token=_token(items[-1].path) if len(found) > limit else None)


def _token(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode()


def _place(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Invalid(
            "This page_token is not one of ours. Take `next_token` of the page before.", code="page_token"
        ) from None


@router.get("/jobs/{id}/outputs.tar.gz", response_class=StreamingResponse, responses=_BINARY)
async def archive(id: str, caller: Reader, parts: Deps) -> StreamingResponse:
    """All outputs as one gzipped tar."""
    async with parts.db.read() as session:
        row = await jobs.find(session, caller, id)
        found = await jobs.outputs(session, row)
    made = pack.gathered(_tar(parts.files, found, int((row.finished_at or row.created_at).timestamp())))
    return StreamingResponse(
        _in_thread(made), media_type="application/gzip", headers=_attachment(f"{row.id}-outputs.tar.gz")
    )


@router.get("/jobs/{id}/outputs/{path:path}", response_class=StreamingResponse, responses=_BINARY)
async def output(id: str, path: str, caller: Reader, parts: Deps) -> StreamingResponse:
    """One output. It is never shown as a page: what a program made must not run as ours."""
    async with parts.db.read() as session:
        row = await jobs.find(session, caller, id)
        one = await jobs.output(session, row, path)
    if not parts.files.has(one.digest):
        raise NotFound(f"The bytes of {path[:200]} are no longer kept.", code="output_not_found")
    headers = _attachment(posixpath.basename(path)) | {"Content-Length": str(one.size_bytes), "ETag": f'"{one.digest}"'}
    return StreamingResponse(parts.files.read(one.digest), media_type="application/octet-stream", headers=headers)


def _attachment(name: str) -> dict[str, str]:
    return {
        "Content-Disposition": f"attachment; filename=\"{_SAFE.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"
    }


def _tar(files: Files, found: Sequence[tuple[str, t.Output]], mtime: int) -> Iterator[bytes]:
    gzip = zlib.compressobj(1, wbits=31)
    for path, one in found:
        header = tarfile.TarInfo(path)
        header.size, header.mode, header.mtime = one.size_bytes, one.mode, mtime
        with files.open(one.digest) as file:
            for data in pack.entry(header, iter(partial(file.read, CHUNK), b"")):
                yield gzip.compress(data)
    yield gzip.compress(pack.END) + gzip.flush()


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
