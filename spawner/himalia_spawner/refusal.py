"""A start that is refused, with a sentence the hub's pages show as it is."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException


class NotStarted(SpawnException):
    """`reason` is a stable code. The hub's pages show `jupyterhub_message`; of any other exception they show its repr."""

    def __init__(self, message: str, *, reason: str, status_code: int = 400) -> None:
        super().__init__(message, reason=reason, status_code=status_code)
        self.jupyterhub_message = message
