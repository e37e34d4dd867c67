"""PID 1 of every container of ours: starts the workspace's server or a job as jovyan, passes signals on, says how it ended.

Standard library only, and importable by any Python from 3.11 on: it runs under the CPython in /opt/himalia, whatever a
person did to their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

VERBS = ("workspace", "job", "boot-check")
UNUSABLE = 125  # what the container ends with when the runner could not even begin


def main(argv: Sequence[str] | None = None) -> None:
    """`himalia-run VERB`: ends with the exit code of what it ran."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1 or arguments[0] not in VERBS:
        print(f"usage: himalia-run {{{','.join(VERBS)}}}", file=sys.stderr)
        sys.exit(2)
    sys.exit(_verb(arguments[0])())


def _verb(name: str) -> Callable[[], int]:
    # Imported one by one: a job must not pay for the boot check's HTTP modules.
    if name == "workspace":
        from himalia.runner.workspace import run
    elif name == "job":
        from himalia.runner.job import run
    else:
        from himalia.runner.boot import run
    return run
