"""Pages of the hub that behave differently here."""

from __future__ import annotations

from typing import Any

from jupyterhub.handlers.pages import SpawnHandler


class AskFirst(SpawnHandler):
    """The spawn page, which never starts anything by being opened.

    JupyterHub starts at once when a link carries options; then a link alone would run somebody else's programs as you.
    The form reads the same options and only ticks them.
    """

    def _get_user_options(self, query_options: dict[str, list[str]]) -> dict[str, list[str]]:
        return {}


#: Before the hub's own: only an authenticator's handlers come first.
HANDLERS: list[tuple[str, Any]] = [
    (r"/spawn", AskFirst),
    (r"/spawn/([^/]+)", AskFirst),
    (r"/spawn/([^/]+)/([^/]+)", AskFirst),
]
