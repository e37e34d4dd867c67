"""Waiting for an object of the platform by asking for it again, a little less often each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from himalia.errors import WaitTimeout

T = TypeVar("T")

#: How long a wait bears a control plane that restarts.
PATIENCE = 60.0


def until(
    ask: Callable[[], T],
    done: Callable[[T], bool],
    *,
    timeout: float | None,
    key: Callable[[T], Any],
    complaint: Callable[[T], str],
    changed: Callable[[T], None] | None = None,
    longest: float = 1.5,
) -> T:
    """Ask until `done`; `changed` hears of every answer whose `key` is new. WaitTimeout with `complaint` after `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.2
    seen: Any = object()
    while True:
        value = ask()
        if key(value) != seen:
            seen = key(value)
            pause = 0.2
            if changed is not None:
                changed(value)
        if done(value):
            return value
        if deadline is not None and time.monotonic() > deadline:
            raise WaitTimeout(complaint(value), code="wait_timeout")
        time.sleep(pause)
        pause = min(longest, pause * 1.3)
