"""Inputs: a project folder as one gzipped tar, under the digest of its bytes."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from himalia.schema import InputInfo
from himalia_services.api.auth import needs
from himalia_services.api.deps import Deps
from himalia_services.control import input as inputs
from himalia_services.errors import Invalid, NotFound
from himalia_services.model import pack
from himalia_services.model.caller import Caller
from himalia_services.store import tables as t
from himalia_services.store.files import Staged, fill
from himalia_services.store.tables import now

router = APIRouter(tags=["jobs"])

Writer = Annotated[Caller, Depends(needs("jobs:write"))]
Digest = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$", description="Of the bytes that are sent")]


@router.put(
    "/inputs/{digest}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put(
    digest: Digest,
    request: Request,
    caller: Writer,
    parts: Deps,
    whole: Annotated[bool, Query(description="Take a pack over the usual limits")] = False,
) -> InputInfo:
    """Give the platform a pack. The same bytes again change nothing."""
    limits = pack.WHOLE if whole else pack.USUAL
    with parts.files.stage() as staged:
        await fill(staged, request.stream(), limit=limits.upload, sentence=limits.sentence)
        if staged.digest != digest:
            raise Invalid(
                f"The bytes that came have the digest {staged.digest}. Send them again.", code="digest_mismatch"
            )
        listing = await asyncio.to_thread(_inspect, staged, limits)
        async with parts.db.write() as session:
            # inside, so that nobody sweeps the file between its coming and its row
            await asyncio.to_thread(parts.files.keep, staged)
            row = await inputs.keep(session, caller, digest, staged.size, listing)
            return _wire(row)


@router.head("/inputs/{digest}", responses={404: {"description": "Not here: upload it"}})
async def head(digest: Digest, caller: Writer, parts: Deps) -> Response:
    """Whether a pack is here."""
    async with parts.db.read() as session:
        row = await inputs.find(session, caller, digest)
    if not parts.files.has(digest):
        raise NotFound(f"The bytes of {digest} are no longer kept. Upload them again.", code="input_not_found")
    if row.created_at < now() - inputs.FRESH:
        async with parts.db.write() as session:
            (await inputs.find(session, caller, digest)).created_at = now()
    return Response(headers={"X-Size": str(row.size_bytes), "X-Files": str(row.files)})


def _inspect(staged: Staged, limits: pack.Limits) -> pack.Listing:
    staged.sync()
    with staged.path.open("rb") as file:
        return pack.inspect(file, limits)


def _wire(row: t.Input) -> InputInfo:
    return InputInfo(digest=row.digest, size_bytes=row.size_bytes, files=row.files)
