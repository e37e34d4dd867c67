"""The client of one login: the door to workspaces, environments and jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from types import TracebackType

from himalia._connection import Connection
from himalia.environment import Environments
from himalia.job import Jobs
from himalia.login import Login, find
from himalia.schema import Machine, Me, from_wire
from himalia.workspace import Workspaces


class Himalia:
    """What one person may do on one platform. Threads may share it; no call is made before the first verb."""

    def __init__(self, login: Login, *, environ: Mapping[str, str] | None = None, patience: float = 6.0) -> None:
        self.login = login
        self.environ = os.environ if environ is None else environ
        self.connection = Connection(login, patience=patience)

    def __repr__(self) -> str:
        return f"<Himalia at {self.login.url}>"

    def __enter__(self) -> Himalia:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    @cached_property
    def workspaces(self) -> Workspaces:
        return Workspaces(self)

    @cached_property
    def environments(self) -> Environments:
        return Environments(self)

    @cached_property
    def jobs(self) -> Jobs:
        return Jobs(self)

    @cached_property
    def name(self) -> str:
        """The name of the person this login is."""
        return self.me().name

    def me(self) -> Me:
        return from_wire(Me, self.connection.get("/me"))

    def machines(self) -> list[Machine]:
        """The sizes an operator offers."""
        return [from_wire(Machine, item) for item in self.connection.items("/machines")]


def connect(url: str | None = None, token: str | None = None, *, patience: float = 6.0) -> Himalia:
    """A client. Without arguments: `HIMALIA_URL` and `HIMALIA_TOKEN`, else the workspace this runs in, else the stored login.

    `patience` is how many seconds a call waits out a platform that restarts before it raises Unavailable.
    """
    return Himalia(find(url, token), patience=patience)
