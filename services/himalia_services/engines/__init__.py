"""The engine seam: Docker Engine or Kubernetes behind one small interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Protocol

from himalia_services.model.workload import ImageTarget, Observed, Saved, Workload, WorkloadId, WorkspaceRef

#: Told as a save goes on: the phase it enters ("Committing", "Pushing") and the bytes sent so far.
SaveProgress = Callable[[str, int], None]


class Engine(Protocol):
    """Runs workloads. Verbs are idempotent and keyed by the workload's id; an engine remembers nothing.

    Two errors cross the seam: `EngineError` (it said no, with a sentence) and `EngineUnavailable` (it did not answer).
    """

    async def apply(self, workload: Workload) -> None:
        """Make it so: create and start what is missing. A worker that has ended is never started again."""
        ...

    async def stop(self, id: WorkloadId, grace: timedelta) -> None:
        """TERM, or KILL when `grace` is zero; returns when the signal is sent. Absent means stopped.

        An engine remembers nothing: who sent TERM comes again when the grace is over.
        """
        ...

    async def remove(self, id: WorkloadId) -> None:
        """Remove containers, volumes and folders of the workload. Absent is success."""
        ...

    async def observe(self) -> Mapping[WorkloadId, Observed]:
        """Everything of this installation that is there, by one listing, never a call per row."""
        ...

    def watch(self) -> AsyncIterator[WorkloadId | WorkspaceRef]:
        """Hints that something changed; may lose some. Ends when the connection does."""
        ...

    def logs(self, id: WorkloadId, worker: int = 0, *, offset: int = 0) -> AsyncIterator[bytes]:
        """The log from byte `offset` to its present end. Nothing when there is none yet."""
        ...

    def outputs(self, id: WorkloadId, worker: int = 0) -> AsyncIterator[bytes]:
        """The project folder of an ended worker, as a tar stream; each name begins with the folder's own, which means nothing."""
        ...

    async def result(self, id: WorkloadId, worker: int = 0) -> Mapping[str, object] | None:
        """What the runner recorded at the end (`result.json`), None when it wrote nothing."""
        ...

    async def save(self, source: WorkspaceRef, target: ImageTarget, progress: SaveProgress) -> Saved:
        """The container's own changes as one layer on `target.base`, in the registry and in this engine.

        Works on a running and on a stopped container; changes nothing in it and leaves nothing frozen, whatever happens.
        """
        ...

    async def ensure_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """The volume exists and belongs to the user of our images."""
        ...

    async def remove_image(self, image: str) -> None:
        """Drop an image from this engine; absent is success, one in use is left alone."""
        ...

    async def aclose(self) -> None: ...
