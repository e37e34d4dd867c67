"""Live progress on stderr: one moving line on a terminal, one line for each step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.markup import escape
from rich.status import Status

from himalia.cli.output import err, span


class Progress:
    """Steps that follow each other. `step` begins one (the same name again only changes its words)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._step = ""
        self._began = 0.0
        self._live: Status | None = None

    def __enter__(self) -> Progress:
        if err.is_terminal and not self._quiet:
            self._live = err.status("")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        if self._live is not None:
            self._live.stop()

    def step(self, name: str, detail: str = "") -> None:
        if self._quiet:
            return
        if name != self._step:
            self._finish()
            self._step, self._began = name, time.monotonic()
            if self._live is None:
                err.print(f"{escape(name)}{' · ' + escape(detail) if detail else ''}")
        if self._live is not None:
            self._live.update(f"{escape(name)}{' [dim]' + escape(detail) + '[/dim]' if detail else ''}")

    def _finish(self) -> None:
        if self._step and self._live is not None:
            err.print(f"[green]✓[/green] {escape(self._step)} [dim]{span(time.monotonic() - self._began)}[/dim]")
