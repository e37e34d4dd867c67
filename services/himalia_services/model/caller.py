"""Who asks: a person as the hub knows them, with the scopes of the token they came with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Caller:
    """`admin` is right over everybody's things, by the hub's flag or the admin scope; scopes still limit what a token may do."""

    name: str
    person_id: str
    admin: bool = False
    groups: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    token_id: str = ""
    via: Literal["token", "cookie"] = "token"

    def may(self, scope: str) -> bool:
        """Whether the token carries `scope`, for everybody or for the caller's own things.

        The hub has expanded what contains what (write contains read, admin contains all).
        """
        return not self.scopes.isdisjoint({scope, f"{scope}!user={self.name}", f"{scope}!user"})
