"""Environments as values: what was built, what a version is called, who sees what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from himalia_services.model.workload import Image

#: Reasons a save's failure may have, as architecture.md lists them; anything else is a failure of the phase it came from.
SAVE_REASONS = frozenset({"commit_failed", "push_failed", "workspace_gone", "interrupted"})


def built(document: Mapping[str, Any], name: str) -> Image | None:
    """An image of `built.json`, as the builder left it in the platform's registry; None when it is not there (yet)."""
    entry = document.get(name)
    if not isinstance(entry, Mapping) or not all(
        isinstance(entry.get(k), str) and entry[k] for k in ("repository", "digest", "config_digest")
    ):
        return None
    return Image(repository=entry["repository"], digest=entry["digest"], config_digest=entry["config_digest"])


def building(progress: Mapping[str, Any] | None) -> str:
    """The sentence a person reads who wants an image that is not there yet."""
    if not progress:
        return "The base image is not built yet; it is built when Himalia starts. Try again in a minute."
    image = progress.get("image") or "base"
    if progress.get("error"):
        return f"The {image} image could not be built: {progress['error']}"
    step, steps = progress.get("step"), progress.get("steps")
    share = f": step {step} of {steps}" if step and steps else ""
    message = f", {progress['message']}" if progress.get("message") else ""
    return f"Building the {image} image{share}{message}."


def runs_as_you(owner: str, *, mine: bool, preset: bool) -> str:
    """What to know before starting somebody else's environment; nothing about one's own and the operator's."""
    return "" if mine or preset else f"Made by {owner}; programs in it run as you."


def save_reason(phase: str, code: str) -> str:
    """The stable reason of a failed save."""
    if code in SAVE_REASONS:
        return code
    return "push_failed" if phase == "Pushing" else "commit_failed"


def names(items: Sequence[str], most: int = 3) -> str:
    """`a, b and 4 more`, for sentences about who uses something."""
    shown = list(items[:most])
    if len(items) > most:
        return f"{', '.join(shown)} and {len(items) - most} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else ""
