"""Every error as one problem document (RFC 9457), whoever raised it and wherever: a route, the router, validation, a bug, a middleware."""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from himalia_services.api.headers import EveryAnswer
from himalia_services.errors import HimaliaError, Invalid, NotFound, TooLarge, Unauthorized, Unavailable
from himalia_services.settings import SERVICE_PATH

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
LOGIN = f"{SERVICE_PATH}/login"
#: What we say of ourselves in seconds when something should be asked again.
RETRY_AFTER = "2"
INTERNAL = "Something went wrong on our side. It is written in the control plane's log under this request id; an admin can find it there."


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The document. `code` is stable and for programs, `detail` a sentence for people; more fields may follow."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    link: str = ""


def install(app: FastAPI) -> None:
    app.add_exception_handler(HimaliaError, _himalia)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(UnicodeEncodeError, _no_text)
    app.add_exception_handler(HTTPException, _http)


def response(connection: HTTPConnection, error: HimaliaError) -> Response:
    """The answer for one of our errors."""
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = RETRY_AFTER
    return _document(
        connection, error.status, error.title, error.reason, error.detail, error.link, error.extra, headers
    )


def _document(
    connection: HTTPConnection,
    status: int,
    title: str,
    code: str,
    detail: str,
    link: str = "",
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    content: dict[str, Any] = {
        **(extra or {}),
        "type": f"urn:himalia:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": connection.scope.get("state", {}).get("request_id", ""),
    }
    if link:
        content["link"] = link
    return JSONResponse(content, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _himalia(request: Request, error: Exception) -> Response:
    assert isinstance(error, HimaliaError)
    if isinstance(error, Unauthorized) and navigating(request):
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{LOGIN}?next={quote(asked, safe='')}", status_code=302)
    if error.status >= 500:
        log.warning("request_refused", code=error.reason, detail=error.detail, path=request.url.path)
    return response(request, error)


def navigating(request: Request) -> bool:
    """Whether a person is looking at this in a browser, rather than a program or a script of a page."""
    return (
        request.method == "GET"
        and "text/html" in request.headers.get("Accept", "")
        and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
    )


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [(_field(e.get("loc", ())), str(e.get("msg", "is not right"))) for e in error.errors()]
    detail = "; ".join(f"{field}: {message}" for field, message in found[:3])
    errors = [{"field": field, "message": message} for field, message in found]
    return response(request, Invalid(f"The request is not as it must be. {detail}.", errors=errors))


def _no_text(request: Request, error: Exception) -> Response:
    """JSON can spell half a character, which no database takes as text."""
    return response(
        request, Invalid("The request holds something that is no text: half of a surrogate pair.", code="no_text")
    )


def _field(location: Sequence[Any]) -> str:
    where, *path = [str(p) for p in location] or ["body"]
    named = ".".join(path)
    if where == "body":
        return f"`{named}`" if named and not named.isdecimal() else "The body"
    return f"`{named}` in the {where}"


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, HimaliaError):  # raised while FastAPI read the body
        return response(request, error.__cause__)
    if error.status_code == 404:
        return response(
            request,
            NotFound(
                "There is nothing at this address. The API is described in /services/himalia/api/v1/openapi.json."
            ),
        )
    phrase = http.HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_")
    detail = (
        f"{request.method} is not possible here." if error.status_code == 405 else f"{str(error.detail).rstrip('.')}."
    )
    return _document(request, error.status_code, phrase, code, detail, headers=error.headers)


class Starting:
    """Answers while the real application is being made: the port is there from the first moment."""

    def __init__(self) -> None:
        self.app: ASGIApp = EveryAnswer(_starting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def _starting(scope: Scope, receive: Receive, send: Send) -> None:
    error = Unavailable("The control plane is starting. It takes a few seconds.", code="starting")
    await response(HTTPConnection(scope), error)(scope, receive, send)


class Bugs:
    """What nobody foresaw: 500 with the request's id, the traceback in the log and nowhere else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            if started:
                raise  # the server closes the connection, so that a cut answer is seen as one
            known = error if isinstance(error, HimaliaError) else HimaliaError(INTERNAL)
            await response(HTTPConnection(scope), known)(scope, receive, send)


class BodyLimit:
    """Refuses bodies over a limit, told beforehand or found on the way, before anything reads them into memory."""

    def __init__(self, app: ASGIApp, *, most: int, more: Mapping[str, int]) -> None:
        self.app = app
        self.most = most
        self.more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = next((size for prefix, size in self.more.items() if scope["path"].startswith(prefix)), self.most)
        error = TooLarge(f"The body is over the limit of {most} bytes.", limit=most)
        told = HTTPConnection(scope).headers.get("Content-Length", "0")
        if not told.isdecimal() or int(told) > most:
            await response(HTTPConnection(scope), error)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise error
            return message

        await self.app(scope, counted, send)
