"""Who I am to the control plane, and the machines I may ask for."""

from __future__ import annotations

from fastapi import APIRouter

from himalia.schema import Machine, Me, Page
from himalia_services.api.auth import Asking
from himalia_services.api.deps import Deps

router = APIRouter(tags=["me"])


@router.get("/me")
async def me(caller: Asking) -> Me:
    return Me(name=caller.name, admin=caller.admin, groups=sorted(caller.groups), scopes=sorted(caller.scopes))


@router.get("/machines")
async def machines(caller: Asking, parts: Deps) -> Page[Machine]:
    return Page(items=list(parts.catalog.machines))
