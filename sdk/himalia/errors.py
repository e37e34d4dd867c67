"""What can go wrong when you use Himalia from Python.

HimaliaError
├── NotLoggedIn        no token, or one the platform does not know any more
├── Forbidden          the token may not do this
├── NotFound           absent, or not yours to see
├── Conflict           not possible in the present state; `link` points at what is in the way
├── Invalid            the request is wrong, with the sentence why
│   └── PackError      the project folder cannot be packed as it is
├── TooLarge
├── Unavailable        Himalia, or something it needs, does not answer
├── SaveFailed         a save ended as Failed; `version` has the reason
├── StartFailed        a workspace ended as Failed or Stopped instead of Running
├── JobFailed          a job did not succeed (`job.wait(check=True)`)
├── CommandFailed      a command run in a workspace ended with another code than 0
└── WaitTimeout        also a TimeoutError: what you waited for goes on without you
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HimaliaError(Exception):
    """`detail` is a sentence for a person, `code` is stable, `request_id` is what an operator finds in the log."""

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        link: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.request_id = request_id
        self.link = link
        self.extra = dict(extra or {})


class NotLoggedIn(HimaliaError):
    pass


class Forbidden(HimaliaError):
    pass


class NotFound(HimaliaError):
    pass


class Conflict(HimaliaError):
    pass


class Invalid(HimaliaError):
    pass


class PackError(Invalid):
    pass


class TooLarge(HimaliaError):
    pass


class Unavailable(HimaliaError):
    pass


class SaveFailed(HimaliaError):
    version: Any = None


class StartFailed(HimaliaError):
    pass


class JobFailed(HimaliaError):
    job: Any = None


class CommandFailed(HimaliaError):
    finished: Any = None


class WaitTimeout(HimaliaError, TimeoutError):
    pass


_BY_STATUS: dict[int, type[HimaliaError]] = {
    400: Invalid,
    401: NotLoggedIn,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    413: TooLarge,
    415: Invalid,
    422: Invalid,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def from_problem(status: int, problem: Mapping[str, Any], request_id: str = "") -> HimaliaError:
    """The error that an answer of the API stands for; `problem` is its decoded body, empty when it was no problem document."""
    kind = _BY_STATUS.get(status, HimaliaError)
    known = {"type", "title", "status", "code", "detail", "request_id", "link"}
    detail = problem.get("detail") or problem.get("title") or f"Himalia answered {status}."
    return kind(
        str(detail),
        status=status,
        code=str(problem.get("code") or ""),
        request_id=str(problem.get("request_id") or request_id),
        link=str(problem.get("link") or ""),
        extra={k: v for k, v in problem.items() if k not in known},
    )
