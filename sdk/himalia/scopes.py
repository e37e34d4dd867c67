"""The scopes of Himalia, as data: `SCOPES` is what the hub's `custom_scopes` takes, `PERSON` what a person holds of their own things."""

from __future__ import annotations

NOUNS = ("workspaces", "environments", "jobs", "endpoints", "pipelines", "datasets")
PREFIX = "custom:himalia"
ADMIN = f"{PREFIX}:admin"


def read(noun: str) -> str:
    return f"{PREFIX}:{noun}:read"


def write(noun: str) -> str:
    return f"{PREFIX}:{noun}:write"


def _definitions() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for noun in (*NOUNS, "usage"):
        found[read(noun)] = {"description": f"See {noun}"}
        found[write(noun)] = {"description": f"See and change {noun}", "subscopes": [read(noun)]}
    found[ADMIN] = {
        "description": "See and change everything in Himalia",
        "subscopes": [write(noun) for noun in (*NOUNS, "usage")],
    }
    return found


#: Write contains read, admin contains everything.
SCOPES = _definitions()
#: What a person may do with their own things; the hub adds the filter `!user`.
PERSON = (*(write(noun) for noun in NOUNS), read("usage"))
