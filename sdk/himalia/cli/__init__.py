"""The command `himalia`. This module imports little, so that it can say what is missing where something is."""

from __future__ import annotations

import os
import sys

#: In the platform's images the command lives in a prefix of its own, which nothing a person installs can break.
OURS = "/opt/himalia"


def main() -> None:
    """The entry point of the command."""
    _hand_over()
    try:
        from himalia.cli.app import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] == "himalia":
            raise
        print(f"The command line needs {missing.name}: pip install 'himalia[cli]'", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(run(sys.argv[1:]))


def _hand_over() -> None:
    """In a workspace the SDK among people's packages brings this command too, first on the path: the one of our own prefix runs instead."""
    command = f"{OURS}/bin/himalia"
    if sys.prefix == OURS or not os.access(command, os.X_OK):
        return
    env = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
    }
    os.execve(command, [command, *sys.argv[1:]], env)
