"""What to do next about a version that is being saved: pure, from the row and what the engine reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from himalia_services.model.workload import WorkerObserved

#: Times a save is begun when crashes cut it off.
ATTEMPTS = 3
#: Passes in a row without an answer, with pauses up to half a minute: some ten minutes.
TRIES = 24
#: The runner gives up after its own timeout; an engine that never starts it, or loses its word, is given up after this.
VERIFY_PATIENCE = timedelta(minutes=5)
BOOT_SECONDS = 120  # it takes 5; a busy machine must not make a good environment fail


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A version's row and its boot check. `worker` is None when the engine has no such workload."""

    phase: str
    attempt: int = 0
    tries: int = 0
    behind: bool = False  # an older save of the same workspace still takes its layer
    verifying: timedelta = timedelta()
    worker: WorkerObserved | None = None
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Save:
    """Begin (again) to take the layer."""


@dataclass(frozen=True)
class Boot:
    """Start the container that tries the image out."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do until the engine says more."""


@dataclass(frozen=True)
class Rest:
    """It is over."""


@dataclass(frozen=True, kw_only=True)
class Conclude:
    """The save ends as `status`."""

    status: str
    reason_code: str = ""
    reason_message: str = ""
    warnings: tuple[str, ...] = ()
    packages: Mapping[str, Any] = field(default_factory=dict)


Decision = Save | Boot | Wait | Rest | Conclude


def decide(facts: Facts) -> Decision:
    if facts.phase in ("Saved", "Failed"):
        return Rest()
    if facts.tries >= TRIES:
        return _interrupted("The engine or the registry did not answer for ten minutes. Save again once they do.")
    if facts.phase in ("Committing", "Pushing"):
        if facts.attempt >= ATTEMPTS:
            return _interrupted(
                f"The save was cut off {ATTEMPTS} times. Save again; if that fails too, an admin finds why in the control plane's log."
            )
        return Wait() if facts.behind else Save()
    return _verify(facts)


def _interrupted(sentence: str) -> Conclude:
    return Conclude(status="Failed", reason_code="interrupted", reason_message=sentence)


def _verify(facts: Facts) -> Decision:
    worker = facts.worker
    if worker is not None and worker.state == "exited":
        return _ended(worker, facts.result)
    if facts.verifying > VERIFY_PATIENCE:
        minutes = int(VERIFY_PATIENCE.total_seconds() // 60)
        return _unbootable(f"The environment's trial start did not end within {minutes} minutes.")
    if worker is None or worker.state == "absent":
        return Boot()
    return Wait()


def _ended(worker: WorkerObserved, result: Mapping[str, Any] | None) -> Conclude:
    if result is None:
        why = "ran out of memory" if worker.oom_killed else f"ended with exit code {worker.exit_code}"
        detail = f": {worker.message}" if worker.message else ""
        return _unbootable(f"The environment's trial start {why} before it could report{detail}.")
    if result.get("ok"):
        return Conclude(
            status="Saved",
            warnings=tuple(str(w) for w in result.get("warnings") or ()),
            packages=dict(result.get("packages") or {}),
        )
    return _unbootable(
        str(result.get("message") or "The environment did not start."), str(result.get("log_tail") or "")
    )


def _unbootable(message: str, log: str = "") -> Conclude:
    return Conclude(status="Failed", reason_code="boot_check", reason_message=f"{message}\n{log}".strip())
