"""What commands print: objects as JSON or tables on stdout, everything said beside them on stderr; errors as exit codes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from himalia.errors import Forbidden, HimaliaError, Invalid, NotFound, NotLoggedIn, TooLarge, Unavailable

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]

FAILED, WRONG, NOT_FOUND, NOT_ALLOWED, NOT_AVAILABLE, INTERRUPTED = 1, 2, 3, 4, 5, 130

_CODES: tuple[tuple[type[HimaliaError], int], ...] = (
    (Invalid, WRONG),
    (TooLarge, WRONG),
    (NotFound, NOT_FOUND),
    (NotLoggedIn, NOT_ALLOWED),
    (Forbidden, NOT_ALLOWED),
    (Unavailable, NOT_AVAILABLE),
)

_COLOURS = {"Running": "green", "Saved": "green", "Succeeded": "green", "Failed": "red", "Stopped": "dim"}


def exit_code(error: HimaliaError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def complain(error: HimaliaError, *, as_json: bool = False) -> int:
    """Print an error to stderr and give its exit code."""
    if as_json:
        problem = {
            "status": error.status,
            "code": error.code,
            "detail": error.detail,
            "request_id": error.request_id,
            "link": error.link,
        }
        print(json.dumps({"error": {name: value for name, value in problem.items() if value}}), file=sys.stderr)
    else:
        err.print(
            f"[red]{escape(error.detail)}[/red]"
            + (f" [dim](request {escape(error.request_id)})[/dim]" if error.request_id else "")
        )
    return exit_code(error)


def say(text: str) -> None:
    """Tell something beside the result."""
    err.print(escape(text))


def emit(value: Any) -> None:
    """Print an object as JSON."""
    sys.stdout.write(json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """Objects of the wire schema as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], nothing: str) -> None:
    """Print rows, or the sentence that there are none."""
    found = list(rows)
    if not found:
        say(nothing)
        return
    grid = Table(box=None, pad_edge=False)
    for title in titles:
        grid.add_column(title, overflow="fold")
    for row in found:
        grid.add_row(*row)
    # soft_wrap would cut a table at nothing; a pipe is as wide as its longest row.
    Console(highlight=False, width=None if out.is_terminal else 400).print(grid)


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one object, one fact a line."""
    for name, value in pairs:
        if value:
            out.print(f"[dim]{name:<14}[/dim]{value}")


def status(word: str) -> str:
    colour = _COLOURS.get(word, "cyan")
    return f"[{colour}]{escape(word)}[/{colour}]"


def ago(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return f"{span((datetime.now(UTC) - moment).total_seconds())} ago"


def span(seconds: float) -> str:
    """A stretch of time in its two largest units."""
    whole = max(0, int(seconds))
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
