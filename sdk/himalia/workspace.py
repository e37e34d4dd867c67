"""Workspaces: persistent JupyterHub servers of one person, to start, work in, save and stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from himalia import schema
from himalia._wait import until
from himalia.errors import HimaliaError, NotFound, SaveFailed, StartFailed
from himalia.schema import LIVE_VERSION_PHASES, SaveRequest, StartRequest, Version, WorkspaceRequest, from_wire

if TYPE_CHECKING:
    from himalia._kernel import Finished
    from himalia.client import Himalia

Progress = Callable[[Version], None]

_SETTLED = frozenset({"Running", "Stopped", "Failed"})


class Workspace:
    """One workspace. `info` is what the platform last said about it; `refresh()` asks again."""

    def __init__(self, himalia: Himalia, info: schema.Workspace) -> None:
        self._himalia = himalia
        self.info = info

    def __repr__(self) -> str:
        return f"<Workspace {self.info.owner}/{self.name or '(default)'}: {self.status}>"

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def status(self) -> str:
        return self.info.status

    @property
    def environment(self) -> str | None:
        return self.info.environment

    @property
    def urls(self) -> schema.WorkspaceUrls | None:
        return self.info.urls

    def refresh(self) -> Workspace:
        self.info = self._himalia.workspaces.info(self.id)
        return self

    def start(
        self,
        *,
        environment: str | None = None,
        machine: str | None = None,
        wait: bool = True,
        timeout: float = 600,
        progress: Callable[[schema.Workspace], None] | None = None,
    ) -> Workspace:
        """Start it, unless it runs already."""
        environment = self._himalia.environments.resolve(environment) if environment else None
        self._himalia.connection.verb(
            f"/workspaces/{self.id}/start", StartRequest(environment=environment, machine=machine)
        )
        return self.wait_running(timeout=timeout, progress=progress) if wait else self.refresh()

    def stop(self, *, wait: bool = True, timeout: float = 120) -> Workspace:
        """Stop it; what was installed and written stays."""
        self._himalia.connection.verb(f"/workspaces/{self.id}/stop")
        if wait:
            self._watch(lambda w: w.status in ("Stopped", "Failed"), timeout, "stop", None)
        return self.refresh()

    def delete(self) -> None:
        """Delete a workspace and its container for ever. Home, group folders and saved environments stay."""
        self._himalia.connection.call("DELETE", f"/workspaces/{self.id}")

    def wait_running(
        self, *, timeout: float = 600, progress: Callable[[schema.Workspace], None] | None = None
    ) -> Workspace:
        # A start is a row first: the state of before the start may still show for a moment, so Stopped ends the wait only
        # once something else was seen, or it has stayed a while.
        began = time.monotonic()
        moved = False

        def settled(info: schema.Workspace) -> bool:
            nonlocal moved
            moved = moved or info.status not in _SETTLED
            if info.status == "Running":
                return True
            return info.status in _SETTLED and (moved or time.monotonic() - began > 10)

        self._watch(settled, timeout, "start", progress)
        if self.status != "Running":
            reason = self.info.reason_message or f"it is {self.status}"
            raise StartFailed(f"The workspace did not start: {reason}", code=self.info.reason_code)
        return self

    def _watch(
        self,
        done: Callable[[schema.Workspace], bool],
        timeout: float,
        verb: str,
        progress: Callable[[schema.Workspace], None] | None,
    ) -> None:
        self.info = until(
            lambda: self._himalia.workspaces.info(self.id),
            done,
            timeout=timeout,
            changed=progress,
            key=lambda w: (w.status, w.reason_message),
            complaint=lambda w: f"The workspace did not {verb} in {timeout:.0f} s; it is {w.status}.",
        )

    def save(
        self, name: str, *, note: str = "", wait: bool = True, timeout: float = 3600, progress: Progress | None = None
    ) -> Version:
        """Save everything under `/` as the next version of the environment `name`; home and group folders are no part of it.

        Waits until the version is Saved (it booted and answered) and raises SaveFailed otherwise. `progress` gets the
        version whenever it has changed.
        """
        answer = self._himalia.connection.create(
            f"/workspaces/{self.id}/environments", SaveRequest(name=name, note=note)
        )
        version = from_wire(Version, answer)
        return self._himalia.environments.wait(version, timeout=timeout, progress=progress) if wait else version

    def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "~",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        output: Callable[[str], None] | None = None,
        timeout: float = 3600,
    ) -> Finished:
        """Run a command in the running workspace and wait for it: `ws.run(["pip", "install", "scikit-learn"])`.

        A text is a line for bash. `output` gets stdout and stderr as they come; both are in the answer too. With `check`
        an exit code other than 0 raises CommandFailed. It runs in the workspace's own Python kernel, through its server.
        """
        from himalia import _kernel

        return _kernel.run(
            self._himalia,
            self.refresh().info,
            command,
            cwd=cwd,
            env=env or {},
            check=check,
            output=output,
            timeout=timeout,
        )

    def write(self, path: str, text: str) -> None:
        """Write a text file in the running workspace; `path` is absolute or begins in home. Folders on the way are made."""
        self.run(["python", "-c", _WRITE, path, text])


_WRITE = """
import pathlib, sys
path = pathlib.Path.home() / pathlib.Path(sys.argv[1]).expanduser()
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(sys.argv[2])
"""


class Workspaces:
    """Everything that can be done with workspaces: `himalia.connect().workspaces`."""

    def __init__(self, himalia: Himalia) -> None:
        self._himalia = himalia

    def info(self, id: str) -> schema.Workspace:
        return from_wire(schema.Workspace, self._himalia.connection.get(f"/workspaces/{id}"))

    def list(self) -> list[Workspace]:
        return [
            Workspace(self._himalia, from_wire(schema.Workspace, item))
            for item in self._himalia.connection.items("/workspaces")
        ]

    def find(self, name: str = "") -> Workspace | None:
        """My workspace of that name, or with that id; an empty name is the default one."""
        if name.startswith("ws-"):
            try:
                return Workspace(self._himalia, self.info(name))
            except NotFound:
                pass
        me = self._himalia.name
        return next((w for w in self.list() if w.name == name and w.info.owner == me), None)

    def get(self, name: str = "") -> Workspace:
        found = self.find(name)
        if found is None:
            called = f"called {name!r}" if name else "yet"
            raise NotFound(
                f"You have no workspace {called}. Start one: himalia workspaces start {name}".rstrip(),
                status=404,
                code="not_found",
            )
        return found

    def current(self) -> Workspace:
        """The workspace this program runs in."""
        id = self._himalia.environ.get("HIMALIA_WORKSPACE", "")
        if not id:
            raise HimaliaError("This program does not run in a workspace; name the one you mean.", code="no_workspace")
        return Workspace(self._himalia, self.info(id))

    def create(
        self,
        name: str,
        *,
        display_name: str = "",
        environment: str | None = None,
        machine: str | None = None,
        start: bool = False,
    ) -> Workspace:
        """Make a named workspace. It is started when `start` is set; nothing is waited for."""
        environment = self._himalia.environments.resolve(environment) if environment else None
        request = WorkspaceRequest(
            name=name, display_name=display_name, environment=environment, machine=machine, start=start
        )
        return Workspace(
            self._himalia, from_wire(schema.Workspace, self._himalia.connection.create("/workspaces", request))
        )

    def start(
        self,
        name: str = "",
        *,
        environment: str | None = None,
        machine: str | None = None,
        wait: bool = True,
        timeout: float = 600,
        progress: Callable[[schema.Workspace], None] | None = None,
    ) -> Workspace:
        """Start my workspace of that name (the default one without), made when there is none yet; it is Running on return."""
        found = self.find(name)
        if found is not None:
            return found.start(environment=environment, machine=machine, wait=wait, timeout=timeout, progress=progress)
        made = self.create(name, environment=environment, machine=machine, start=True)
        return made.wait_running(timeout=timeout, progress=progress) if wait else made


def failed_save(version: Version) -> SaveFailed:
    reason = (version.reason_message or version.reason_code or "no reason was given").rstrip(".")
    error = SaveFailed(f"Saving {version.ref} failed: {reason}. Your workspace is as it was.", code=version.reason_code)
    error.version = version
    return error


def is_live(version: Version) -> bool:
    return version.phase in LIVE_VERSION_PHASES
