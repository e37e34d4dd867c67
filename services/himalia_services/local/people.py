"""People and groups of this installation: a person is a user of the hub with a password of their own."""

from __future__ import annotations

import getpass
import os
import re
import secrets
from typing import Any

from himalia_services.local.home import Home, Trouble
from himalia_services.local.hub import Hub
from himalia_spawner.people import admins, refusal, set_admin

#: No l, 1, o, 0: people type it once from a screen.
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
GROUP = r"[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?"


def password() -> str:
    """Five groups of four: 98 bits."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(5))


def add(home: Home, name: str, *, admin: bool = False) -> tuple[str, bool]:
    """Make a person; the answer is their password, kept nowhere, and whether they are an admin (the first one is)."""
    name = name.strip().lower()
    if why := refusal(name):
        raise Trouble(why)
    if name in home.passwords.read():
        raise Trouble(f"{name} is there already. `himalia users password {name}` gives a new password.")
    admin = admin or not home.passwords.read()
    with Hub(home) as hub:
        hub.add(name)
    new = password()
    if admin:
        set_admin(home.path / "admins.json", name, True)
    home.passwords.set(name, new)
    return new, admin


def renew(home: Home, name: str) -> str:
    """A new password for somebody who is there."""
    if name not in home.passwords.read():
        raise Trouble(f"There is nobody called {name}. `himalia users add {name}` makes them.")
    new = password()
    home.passwords.set(name, new)
    return new


def first(home: Home) -> tuple[str, str] | None:
    """The first person of a new installation, named after who runs it: (name, password). None when there is somebody."""
    if home.passwords.read():
        return None
    own = re.sub(r"[^a-z0-9._-]", "", getpass.getuser().lower()) if os.geteuid() != 0 else "admin"
    name = own if own and not refusal(own) else "admin"
    return name, add(home, name, admin=True)[0]


def listing(home: Home) -> list[dict[str, Any]]:
    """Everybody, with groups and running servers; `password` is False for a hub user nobody can log in as."""
    known, chosen = home.passwords.read(), admins(home.path / "admins.json")
    with Hub(home) as hub:
        return [
            {
                "name": p["name"],
                "admin": bool(p.get("admin")) or p["name"] in chosen,
                "groups": sorted(p.get("groups") or []),
                "running": sorted(
                    name or "(default)" for name, s in (p.get("servers") or {}).items() if not s.get("stopped")
                ),
                "last_activity": p.get("last_activity"),
                "password": p["name"] in known,
            }
            for p in sorted(hub.people(), key=lambda p: p["name"])
        ]


def check_group(name: str) -> str:
    if not re.fullmatch(GROUP, name):
        raise Trouble(
            f"{name[:60]!r} cannot be a group: it takes 1 to 40 lower-case letters, digits, dots, dashes or underscores. It becomes a folder name."
        )
    return name
