"""Workspaces: list, make, start, stop, delete, and save one as an environment."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import select

from himalia.schema import Page, SaveRequest, StartRequest, Version, Workspace, WorkspaceRequest
from himalia_services.api.auth import needs
from himalia_services.api.deps import Deps
from himalia_services.api.idempotency import Idempotent
from himalia_services.api.paging import Pages
from himalia_services.control import environment as environments
from himalia_services.control import wire
from himalia_services.control import workspace as workspaces
from himalia_services.control.idempotency import remember, replay
from himalia_services.errors import Forbidden
from himalia_services.model.caller import Caller
from himalia_services.settings import SERVICE_PATH
from himalia_services.store import tables as t
from himalia_services.store.page import page

router = APIRouter(tags=["workspaces"])

Reader = Annotated[Caller, Depends(needs("workspaces:read"))]
Writer = Annotated[Caller, Depends(needs("workspaces:write"))]
Saver = Annotated[Caller, Depends(needs("environments:write"))]


@router.get("/workspaces")
async def index(
    caller: Reader,
    parts: Deps,
    paging: Pages,
    everybody: Annotated[bool, Query(alias="all", description="Everybody's; for admins")] = False,
) -> Page[Workspace]:
    if everybody and not caller.admin:
        raise Forbidden("Only admins see everybody's workspaces.")
    w = t.Workspace
    mine = [] if everybody else [w.owner_id == caller.person_id]
    async with parts.db.read() as session:
        rows, next_token = await page(session, select(w).where(w.deleted_at.is_(None), *mine), w, paging)
        return Page(items=await wire.workspaces(session, parts.settings, rows), next_token=next_token)


@router.post("/workspaces", status_code=202)
async def create(
    request: WorkspaceRequest, caller: Writer, parts: Deps, key: Idempotent, response: Response
) -> Workspace:
    """Make a workspace, the default one when it has no name."""
    async with parts.db.write() as session:
        made = await replay(session, caller, key)
        if made is not None:
            row = await session.get_one(t.Workspace, made)
        else:
            row = await workspaces.create(session, parts.settings, parts.catalog, caller, request)
            await remember(session, caller, key, row.id)
        response.headers["Location"] = _location(f"/workspaces/{row.id}")
        return await wire.workspace(session, parts.settings, row)


@router.get("/workspaces/{id}")
async def show(id: str, caller: Reader, parts: Deps) -> Workspace:
    async with parts.db.read() as session:
        return await wire.workspace(session, parts.settings, await workspaces.find(session, caller, id))


@router.delete("/workspaces/{id}", status_code=202)
async def delete(id: str, caller: Writer, parts: Deps) -> Workspace:
    async with parts.db.write() as session:
        row = await workspaces.find(session, caller, id)
        await workspaces.delete(session, caller, row)
        return await wire.workspace(session, parts.settings, row)


@router.post("/workspaces/{id}/start", status_code=202)
async def start(id: str, caller: Writer, parts: Deps, request: StartRequest | None = None) -> Workspace:
    async with parts.db.write() as session:
        row = await workspaces.find(session, caller, id)
        await workspaces.start(session, parts.settings, parts.catalog, caller, row, request or StartRequest())
        return await wire.workspace(session, parts.settings, row)


@router.post("/workspaces/{id}/stop", status_code=202)
async def stop(id: str, caller: Writer, parts: Deps) -> Workspace:
    async with parts.db.write() as session:
        row = await workspaces.find(session, caller, id)
        workspaces.stop(session, caller, row)
        return await wire.workspace(session, parts.settings, row)


@router.post("/workspaces/{id}/environments", status_code=202)
async def save(
    id: str, request: SaveRequest, caller: Saver, parts: Deps, key: Idempotent, response: Response
) -> Version:
    """Save the workspace, running or stopped, as the next version of an environment."""
    async with parts.db.write() as session:
        made = await replay(session, caller, key)
        if made is not None:
            row = await session.get_one(t.Version, made)
        else:
            row = await environments.save(session, caller, await workspaces.find(session, caller, id), request)
            await remember(session, caller, key, row.id)
        environment = await session.get_one(t.Environment, row.environment_id)
        response.headers["Location"] = _location(environments.path(environment, row))
        return await wire.version(session, row)


def _location(path: str) -> str:
    return f"{SERVICE_PATH}/api/v1{path}"
