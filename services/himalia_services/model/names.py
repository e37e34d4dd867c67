"""Names: how ids are made, what a name may be, and the one way a foreign name becomes a folder or a volume."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from himalia_services.errors import Invalid

#: The owner of presets. No person may have it, or two `himalia/base` would mean different things.
PLATFORM = "himalia"

ENVIRONMENT_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
SERVER_NAME = re.compile(r"[a-z]([a-z0-9]*(-[a-z0-9]+)*)?")  # JupyterHub's own rule
SERVER_NAME_LONGEST = 30
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_FOLDER_LONGEST = 120
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def fresh(prefix: str) -> str:
    """A new id: `ws-` and twelve hex digits."""
    return f"{prefix}-{secrets.token_hex(6)}"


# Names on the engine


def container(prefix: str, workspace_id: str) -> str:
    """A workspace's container. `prefix` is what all names of an installation on its engine begin with."""
    return f"{prefix}-{workspace_id}"


def home_volume(prefix: str, person_id: str) -> str:
    return f"{prefix}-home-{person_id}"


def group_volume(prefix: str, group: str) -> str:
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{prefix}-group-{digest[:16]}"


def repository(owner_id: str, environment_id: str) -> str:
    """Where the versions of an environment are in the platform's registry."""
    return f"env/{owner_id}/{environment_id}"


def boot_check(version_id: str) -> str:
    """The workload that tries a version out; the same for each try, so that none runs beside another."""
    return f"boot-{version_id.partition('-')[2]}"


# Foreign names


def folder(name: str) -> str:
    """A folder name for any text; two texts never share one.

    Letters, digits, `.`, `_` and `-` stay; every other byte becomes `=` and two hex digits, as does a dot in front. What gets too long
    is cut and ends with `==` and its digest, which no escaped name can hold.
    """
    raw = name.encode("utf-8", "surrogatepass")
    escaped = "".join(c if c in _PLAIN else f"={ord(c):02X}" for c in raw.decode("latin-1"))
    if escaped.startswith("."):
        escaped = "=2E" + escaped[1:]
    if not escaped:
        return "=="
    if len(escaped) <= _FOLDER_LONGEST:
        return escaped
    return f"{escaped[:60]}=={hashlib.sha256(raw).hexdigest()[:40]}"


# What people type


@dataclass(frozen=True)
class Ref:
    """`ada/vision:3`, or without a number the newest version."""

    owner: str
    name: str
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}" if self.number is None else f"{self.owner}/{self.name}:{self.number}"


def ref(text: str) -> Ref:
    """Read `owner/name` or `owner/name:number`."""
    owner, slash, rest = text.strip().partition("/")
    name, colon, number = rest.partition(":")
    right = bool(owner and slash and ENVIRONMENT_NAME.fullmatch(name)) and (not colon or _number(number))
    if not right:
        raise Invalid(
            f"“{text[:80]}” names no environment. Write owner/name or owner/name:number, as in ada/vision:3.",
            code="environment_name",
        )
    return Ref(owner, name, int(number) if colon else None)


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0


def environment_name(text: str) -> str:
    """`text`, when an environment may be called so."""
    if not ENVIRONMENT_NAME.fullmatch(text):
        raise Invalid(
            f"“{text[:80]}” cannot be an environment's name. Use up to 64 small letters, digits, dots, dashes and underscores, "
            "beginning and ending with a letter or a digit.",
            code="environment_name",
        )
    return text


def server_name(text: str) -> str:
    """`text`, when a named workspace may be called so."""
    if len(text) > SERVER_NAME_LONGEST or not SERVER_NAME.fullmatch(text):
        raise Invalid(
            f"“{text[:80]}” cannot be a workspace's name. Use up to {SERVER_NAME_LONGEST} small letters, digits and single dashes, "
            "beginning with a letter; anything else can go into the display name.",
            code="workspace_name",
        )
    return text


def person_name(text: str) -> str:
    """`text`, when a person may be called so on the hub."""
    if not text.strip() or len(text) > 255 or "/" in text or any(c.isspace() or not c.isprintable() for c in text):
        raise Invalid(f"“{text[:80]}” is no person's name. Write names as people log in with them.", code="person_name")
    return text
