"""Workspaces as values: what the hub says of a server, and what follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from himalia_services.model.phases import WORKSPACE
from himalia_services.model.workload import Mount


@dataclass(frozen=True)
class Seen:
    """One server as the hub lists it. `pending` is "spawn", "stop" or empty."""

    ready: bool
    pending: str = ""


@dataclass(frozen=True)
class Change:
    status: str
    reason_code: str = ""
    reason_message: str = ""


def conclude(status: str, seen: Seen | None) -> Change | None:
    """What a workspace's status becomes by what the hub says; None when it stays. The spawner's own words come first and say more."""
    now = _status(seen)
    if now not in WORKSPACE[status]:
        return None
    if now != "Stopped":
        return Change(now)
    if status == "Failed":
        return None
    if status == "Starting":
        return Change(
            "Failed",
            "server_failed",
            "The start did not come to an end. Start the workspace again; if it fails again, an admin finds why in the hub's log.",
        )
    return Change("Stopped")


def _status(seen: Seen | None) -> str:
    if seen is None:
        return "Stopped"
    if seen.pending:
        return {"spawn": "Starting", "stop": "Stopping"}.get(seen.pending, "Starting")
    return "Running" if seen.ready else "Stopped"


def mounts_hash(mounts: Sequence[Mount]) -> str:
    """What tells one list of mounts from another; a container with another hash is made anew."""
    return hashlib.sha256(json.dumps([asdict(m) for m in mounts], sort_keys=True).encode()).hexdigest()[:32]
