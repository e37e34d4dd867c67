"""Errors people see. Each carries the HTTP status and a stable code; one handler makes problem+json of them.

HimaliaError
├── NotFound 404          absent, or its existence is not yours to know
├── Forbidden 403
├── Unauthorized 401
├── Conflict 409          the state does not allow it; `link` points at what is in the way
├── Invalid 422           the input is wrong, with the sentence why
├── TooLarge 413
├── Unavailable 503       something we depend on does not answer
│   └── HubUnavailable
└── EngineError 502       the engine said no, with a sentence
    └── EngineUnavailable 503   the engine did not answer: keep the last known state, retry
"""

from __future__ import annotations

from typing import ClassVar


class HimaliaError(Exception):
    """`detail` is a sentence for a person; `link` a path of the API that helps; `extra` goes into the problem document."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, detail: str, *, code: str | None = None, link: str = "", **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = code or self.code
        self.link = link
        self.extra = extra


class NotFound(HimaliaError):
    status, code, title = 404, "not_found", "Not found"


class Forbidden(HimaliaError):
    status, code, title = 403, "forbidden", "Not allowed"


class Unauthorized(HimaliaError):
    status, code, title = 401, "unauthorized", "Log in first"


class Conflict(HimaliaError):
    status, code, title = 409, "conflict", "Not possible now"


class Invalid(HimaliaError):
    status, code, title = 422, "invalid", "The request is not right"


class TooLarge(HimaliaError):
    status, code, title = 413, "too_large", "Too large"


class Unavailable(HimaliaError):
    status, code, title = 503, "unavailable", "Not available now"


class HubUnavailable(Unavailable):
    code, title = "hub_unavailable", "JupyterHub does not answer"


class EngineError(HimaliaError):
    status, code, title = 502, "engine_error", "The engine refused"


class EngineUnavailable(EngineError):
    status, code, title = 503, "engine_unavailable", "The engine does not answer"
