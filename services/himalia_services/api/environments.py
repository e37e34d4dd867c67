"""Environments and their versions: list, show, share, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from sqlalchemy import select

from himalia.schema import Environment, Packages, Page, ShareRequest, Version
from himalia_services.api.auth import needs
from himalia_services.api.deps import Deps
from himalia_services.api.paging import Pages
from himalia_services.control import environment as environments
from himalia_services.control import rights, wire
from himalia_services.errors import Forbidden
from himalia_services.model.caller import Caller
from himalia_services.store import tables as t
from himalia_services.store.page import page

router = APIRouter(tags=["environments"])

Reader = Annotated[Caller, Depends(needs("environments:read"))]
Writer = Annotated[Caller, Depends(needs("environments:write"))]
Number = Annotated[int, Path(ge=1, le=999_999_999)]


@router.get("/environments")
async def index(
    caller: Reader,
    parts: Deps,
    paging: Pages,
    everybody: Annotated[bool, Query(alias="all", description="Everybody's; for admins")] = False,
) -> Page[Environment]:
    """Mine, those shared with me, and the presets; newest first."""
    if everybody and not caller.admin:
        raise Forbidden("Only admins see everybody's environments.")
    e = t.Environment
    where = [e.deleted_at.is_(None), e.hidden.is_(False)] if everybody else [rights.listed(caller)]
    async with parts.db.read() as session:
        rows, next_token = await page(session, select(e).where(*where), e, paging)
        usable = [row for row in rows if rights.may_use(caller, row)]
        return Page(items=await wire.environments(session, caller, usable), next_token=next_token)


@router.get("/environments/{owner}/{name}")
async def show(owner: str, name: str, caller: Reader, parts: Deps) -> Environment:
    async with parts.db.read() as session:
        row = await environments.find(session, caller, owner, name)
        return (await wire.environments(session, caller, [row], whole=True))[0]


@router.patch("/environments/{owner}/{name}")
async def share(owner: str, name: str, request: ShareRequest, caller: Writer, parts: Deps) -> Environment:
    async with parts.db.write() as session:
        row = await environments.find(session, caller, owner, name)
        await environments.share(session, caller, row, request)
        await session.flush()
        return (await wire.environments(session, caller, [row], whole=True))[0]


@router.delete("/environments/{owner}/{name}", status_code=204)
async def delete(owner: str, name: str, caller: Writer, parts: Deps) -> None:
    async with parts.db.write() as session:
        await environments.delete(session, caller, await environments.find(session, caller, owner, name))


@router.get("/environments/{owner}/{name}/versions/{number}")
async def version(owner: str, name: str, number: Number, caller: Reader, parts: Deps) -> Version:
    async with parts.db.read() as session:
        environment = await environments.find(session, caller, owner, name)
        return await wire.version(session, await environments.version(session, environment, number))


@router.delete("/environments/{owner}/{name}/versions/{number}", status_code=204)
async def delete_version(owner: str, name: str, number: Number, caller: Writer, parts: Deps) -> None:
    async with parts.db.write() as session:
        environment = await environments.find(session, caller, owner, name)
        await environments.delete_version(
            session, caller, environment, await environments.version(session, environment, number)
        )


@router.get("/environments/{owner}/{name}/versions/{number}/packages")
async def packages(owner: str, name: str, number: Number, caller: Reader, parts: Deps) -> Packages:
    """What the boot check found installed."""
    async with parts.db.read() as session:
        environment = await environments.find(session, caller, owner, name)
        return wire.packages(await environments.version(session, environment, number))
