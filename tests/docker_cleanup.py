"""Removes what a test left on the Docker Engine, also while the engine is still removing some of it itself."""

from __future__ import annotations

import subprocess
import time

SECONDS = 60.0


def clear(label: str) -> None:
    """Containers, volumes and networks with `label` are gone afterwards; what cannot be removed is an error."""
    kinds = (
        (["ps", "-aq"], ["rm", "-f", "-v"]),
        (["volume", "ls", "-q"], ["volume", "rm", "-f"]),
        (["network", "ls", "-q"], ["network", "rm"]),
    )
    deadline = time.monotonic() + SECONDS
    for listing, removal in kinds:
        # a removal that is under way refuses a second one, and is over soon
        while left := _docker(*listing, "--filter", f"label={label}").stdout.split():
            said = _docker(*removal, *left)
            if said.returncode and time.monotonic() > deadline:
                raise RuntimeError(f"could not be removed: {' '.join(left)}: {said.stderr.strip()}")
            if said.returncode:
                time.sleep(0.2)


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
