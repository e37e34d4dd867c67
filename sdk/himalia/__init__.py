"""Himalia for Python: workspaces, environments and jobs, from a notebook or anywhere else.

    import himalia

    himalia.workspaces.current().save("vision")
    job = himalia.jobs.submit(script="train.py", environment="vision", machine="small")
    for text in job.logs():
        print(text, end="")

`himalia.connect()` gives a client of its own; `himalia.workspaces`, `.environments`, `.jobs`, `.me` and `.machines` are
those of a client made at first use. Importing this costs next to nothing: httpx is loaded with the first call.
"""

from __future__ import annotations

import typing

from himalia import errors, schema
from himalia.errors import (
    CommandFailed,
    Conflict,
    Forbidden,
    HimaliaError,
    Invalid,
    JobFailed,
    NotFound,
    NotLoggedIn,
    PackError,
    SaveFailed,
    StartFailed,
    TooLarge,
    Unavailable,
    WaitTimeout,
)

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from himalia.client import Himalia, connect
    from himalia.environment import Environments
    from himalia.job import Jobs
    from himalia.schema import Machine, Me
    from himalia.workspace import Workspaces

    workspaces: Workspaces
    environments: Environments
    jobs: Jobs
    me: Callable[[], Me]
    machines: Callable[[], list[Machine]]

__version__ = "0.1.0"

__all__ = [
    "CommandFailed",
    "Conflict",
    "Forbidden",
    "Himalia",
    "HimaliaError",
    "Invalid",
    "JobFailed",
    "NotFound",
    "NotLoggedIn",
    "PackError",
    "SaveFailed",
    "StartFailed",
    "TooLarge",
    "Unavailable",
    "WaitTimeout",
    "connect",
    "errors",
    "schema",
]

_OF_THE_CLIENT = frozenset({"workspaces", "environments", "jobs", "me", "machines"})


def _client() -> Himalia:
    client = globals().get("_default")
    if client is None:
        from himalia.client import connect

        client = globals()["_default"] = connect()
    return client


def __getattr__(name: str) -> typing.Any:
    if name in ("Himalia", "connect"):
        from himalia import client

        return getattr(client, name)
    if name in _OF_THE_CLIENT:
        return getattr(_client(), name)
    raise AttributeError(f"module 'himalia' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_OF_THE_CLIENT})
