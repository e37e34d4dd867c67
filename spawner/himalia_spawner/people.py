"""Who may log in: people with a password of their own, kept hashed in one 0600 file."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import bcrypt
from jupyterhub.auth import Authenticator
from traitlets import Instance, default

from himalia_spawner.pages import HANDLERS
from himalia_spawner.place import Place

#: Names that would own an address or a namespace of the platform.
RESERVED = frozenset({"himalia", "hub", "services", "endpoints", "registry", "www", "localhost"})
PATTERN = r"[a-z0-9](?:[a-z0-9._@-]{0,38}[a-z0-9])?"
ROUNDS = 12
LONGEST = 1024  # of a password, before any work is spent on it


def refusal(name: str) -> str:
    """Why `name` cannot be a person's name; empty when it can."""
    if name in RESERVED:
        return f"{name} is a name of the platform itself. Choose another."
    if not re.fullmatch(PATTERN, name):
        return f"{name[:60]!r} cannot be a name: it takes 1 to 40 lower-case letters, digits, dots, dashes, underscores or @, with a letter or digit at both ends."
    # the hub replaces labels with two dashes by a hash, and `<name>--<owner>` is how endpoints are called
    return (
        f"{name!r} cannot be a name: two dashes in a row are kept for the platform's own addresses."
        if "--" in name
        else ""
    )


def hashed(password: str) -> str:
    return bcrypt.hashpw(_digest(password), bcrypt.gensalt(ROUNDS)).decode()


def matches(password: str, hash: str) -> bool:
    return bcrypt.checkpw(_digest(password), hash.encode())


def _digest(password: str) -> bytes:
    # bcrypt refuses more than 72 bytes; the digest of any password has 44
    return base64.b64encode(hashlib.sha256(password.encode()).digest())


class Passwords:
    """The file `{name: hash}`. Read anew when it changed; changed under a lock and by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._known: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        if self._seen != (stat.st_mtime_ns, stat.st_ino):
            self._known = json.loads(self.path.read_text())
            self._seen = (stat.st_mtime_ns, stat.st_ino)
        return dict(self._known)

    def set(self, name: str, password: str) -> None:
        hash = hashed(password)
        with self._change() as known:
            known[name] = hash

    def remove(self, name: str) -> bool:
        """Whether there was one."""
        with self._change() as known:
            return known.pop(name, None) is not None

    @contextmanager
    def _change(self) -> Iterator[dict[str, str]]:
        with _locked(self.path):
            known = self.read()
            yield known
            write_private(self.path, json.dumps(known, indent=1, sort_keys=True) + "\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, hub and command line alike."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_private(path: Path, text: str) -> None:
    """Replace a file whole; it is 0600 from its first byte on."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class HimaliaAuthenticator(Authenticator):
    """Name and password against the file. An unknown name takes as long as a wrong password."""

    place = Instance(Place)

    any_allow_config = True  # being in the file is being allowed

    @default("place")
    def _default_place(self) -> Place:
        return Place.read(os.environ)

    @default("username_pattern")
    def _default_username_pattern(self) -> str:
        return PATTERN

    @cached_property
    def passwords(self) -> Passwords:
        return Passwords(self.place.passwords)

    @cached_property
    def _nobody(self) -> str:
        return hashed(secrets.token_hex(16))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        # bcrypt takes a quarter of a second of a core: never on the hub's loop, and never on all cores
        return ThreadPoolExecutor(2, thread_name_prefix="password")

    def get_handlers(self, app: Any) -> list[tuple[str, Any]]:
        return [*super().get_handlers(app), *HANDLERS]

    def validate_username(self, username: str) -> bool:
        return bool(username) and not refusal(username)

    def check_allowed(self, username: str, authentication: Any = None) -> bool:
        return username in self.passwords.read()

    async def authenticate(self, handler: Any, data: dict[str, str]) -> Any:
        name = self.normalize_username(data.get("username", ""))
        password = data.get("password", "")
        if len(password) > LONGEST:
            return None
        hash = self.passwords.read().get(name)
        same = await asyncio.get_running_loop().run_in_executor(self._threads, matches, password, hash or self._nobody)
        # no token below an admin's may make an admin, so who is one stands in a file; None leaves what the hub knows
        return {"name": name, "admin": True if name in admins(self.place.admins) else None} if hash and same else None

    def delete_user(self, user: Any) -> None:
        """Called before the hub deletes a person: the password goes, and their home volumes are listed in the trash."""
        super().delete_user(user)
        self.passwords.remove(user.name)
        set_admin(self.place.admins, user.name, False)
        trash(self.place.trash, user.name, _homes(user))


def admins(path: Path) -> set[str]:
    """Who is an admin by the word of whoever runs this installation."""
    return set(json.loads(path.read_text())) if path.exists() else set()


def set_admin(path: Path, name: str, admin: bool) -> None:
    with _locked(path):
        known = admins(path)
        write_private(path, json.dumps(sorted(known | {name} if admin else known - {name})) + "\n")


def _homes(user: Any) -> list[str]:
    """The home volumes named by the last plans of a person's servers."""
    plans = [(spawner.state or {}).get("plan") or {} for spawner in user.orm_spawners.values()]
    return sorted({m["source"] for plan in plans for m in plan.get("mounts", []) if m["target"] == "/home/jovyan"})


def trash(path: Path, person: str, volumes: list[str]) -> None:
    """Write down whose volumes nobody uses any more. A volume cannot be renamed, so it stays and the list has the date."""
    if not volumes:
        return
    with _locked(path):
        entries = json.loads(path.read_text()) if path.exists() else []
        date = datetime.now(UTC).isoformat(timespec="seconds")
        entries += [{"person": person, "volume": volume, "date": date} for volume in volumes]
        write_private(path, json.dumps(entries, indent=1) + "\n")
