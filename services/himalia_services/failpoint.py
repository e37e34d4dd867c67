"""Points where a test kills the process, between a row and a call to an engine, registry or hub."""

from __future__ import annotations

import os


def failpoint(name: str) -> None:
    """End at once, as `kill -9` would, when `HIMALIA_FAILPOINT` names this point."""
    if os.environ.get("HIMALIA_FAILPOINT") == name:
        os._exit(9)
