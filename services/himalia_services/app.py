"""The applications: one for people and programs, one for the hub on the unix socket."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from pydantic import TypeAdapter
from starlette.middleware.cors import CORSMiddleware

from himalia import __version__
from himalia_services.api import environments, events, inputs, internal, jobs, login, me, problem, workspaces
from himalia_services.api.auth import Seal
from himalia_services.api.headers import REQUEST_ID, EveryAnswer
from himalia_services.api.internal_auth import hub_only
from himalia_services.model import pack
from himalia_services.parts import Parts
from himalia_services.settings import SERVICE_PATH, Settings

API = f"{SERVICE_PATH}/api/v1"
BODY_MOST = 1 << 20
#: The route knows which limits were asked for; this is the largest.
INPUT_MOST = pack.WHOLE.upload
PREFLIGHT_SECONDS = 600

_PROBLEM = {
    "description": "A problem document",
    "content": {problem.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def create_app(parts: Parts) -> FastAPI:
    """The REST API and the browser's login. `app.state.closing` ends streams when it is set."""
    app = _app(parts, title="Himalia", openapi_url=f"{API}/openapi.json")
    app.state.seal = Seal(parts.settings.secret("seal"))
    api = APIRouter(prefix=API, responses={"4XX": _PROBLEM, "5XX": _PROBLEM})
    for noun in (me, workspaces, environments, jobs, inputs, events):
        api.include_router(noun.router)
    app.include_router(api)
    app.include_router(login.router, prefix=SERVICE_PATH)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=people(parts.settings),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Accept", "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", REQUEST_ID],
        expose_headers=[REQUEST_ID, "Location", "Retry-After"],
        allow_credentials=False,  # a header with a token, never a cookie
        max_age=PREFLIGHT_SECONDS,
    )
    app.add_middleware(EveryAnswer)
    _document(app)
    return app


def create_internal_app(parts: Parts) -> FastAPI:
    """What the hub asks, on the unix socket only."""
    app = _app(parts, title="Himalia, internal", openapi_url=None)
    app.state.internal_token = parts.settings.secret("internal-token")
    app.include_router(internal.router, dependencies=[Depends(hub_only)])
    app.add_middleware(EveryAnswer)
    return app


def people(settings: Settings) -> str:
    """The origins of people's servers: one label below the domain, at our port or the scheme's own."""
    return rf"https?://[a-z0-9_-]+\.{re.escape(settings.domain)}(:{settings.port})?"


def _document(app: FastAPI) -> None:
    """Errors in the OpenAPI document as they are: problem documents, also where FastAPI writes its own shape for 422."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = TypeAdapter(problem.Problem).json_schema()
        for theirs in ("HTTPValidationError", "ValidationError"):
            schemas.pop(theirs, None)
        for verbs in document["paths"].values():
            for operation in verbs.values():
                operation["responses"].pop("422", None)
        return document

    app.openapi = openapi


def _app(parts: Parts, *, title: str, openapi_url: str | None) -> FastAPI:
    # the documentation pages of FastAPI load scripts from elsewhere, so there are none
    app = FastAPI(title=title, version=__version__, openapi_url=openapi_url, docs_url=None, redoc_url=None)
    app.state.parts = parts
    app.state.closing = asyncio.Event()
    problem.install(app)
    app.add_middleware(problem.BodyLimit, most=BODY_MOST, more={f"{API}/inputs/": INPUT_MOST})
    app.add_middleware(problem.Bugs)
    return app
