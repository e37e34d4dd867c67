"""The state machines, as data: which status may follow which, per noun. Terminal states have no successor."""

from __future__ import annotations

from collections.abc import Mapping

JOB: Mapping[str, frozenset[str]] = {
    "Creating": frozenset({"Queuing", "Failed", "Stopped"}),
    "Queuing": frozenset({"EnvPreparing", "Failed", "Stopped"}),
    "EnvPreparing": frozenset({"Running", "Stopping", "Succeeded", "Failed", "Stopped"}),
    "Running": frozenset({"Stopping", "Succeeded", "Failed", "Stopped"}),
    "Stopping": frozenset({"Stopped", "Succeeded", "Failed"}),
    "Succeeded": frozenset(),
    "Failed": frozenset(),
    "Stopped": frozenset(),
}

VERSION: Mapping[str, frozenset[str]] = {
    "Committing": frozenset({"Pushing", "Verifying", "Failed"}),
    "Pushing": frozenset({"Committing", "Verifying", "Failed"}),
    "Verifying": frozenset({"Saved", "Failed"}),
    "Saved": frozenset(),
    "Failed": frozenset(),
}

#: Workspaces live as long as their owner wants, so nearly every state can follow another.
WORKSPACE: Mapping[str, frozenset[str]] = {
    "Creating": frozenset({"EnvPreparing", "Starting", "Running", "Stopped", "Failed", "Deleting"}),
    "EnvPreparing": frozenset({"Starting", "Running", "Stopped", "Failed", "Deleting"}),
    "Starting": frozenset({"EnvPreparing", "Running", "Stopping", "Stopped", "Failed", "Deleting"}),
    "Running": frozenset({"Starting", "Updating", "Stopping", "Stopped", "Failed", "Deleting"}),
    "Updating": frozenset({"Starting", "Running", "Stopped", "Failed", "Deleting"}),
    "Stopping": frozenset({"Starting", "Running", "Stopped", "Failed", "Deleting"}),
    "Stopped": frozenset({"EnvPreparing", "Starting", "Running", "Failed", "Deleting"}),
    "Failed": frozenset({"EnvPreparing", "Starting", "Running", "Stopped", "Deleting"}),
    "Deleting": frozenset(),
}

ALLOWED: Mapping[str, Mapping[str, frozenset[str]]] = {"job": JOB, "version": VERSION, "workspace": WORKSPACE}


def terminal(noun: str, status: str) -> bool:
    """Whether nothing can follow `status`."""
    return not ALLOWED[noun][status]
