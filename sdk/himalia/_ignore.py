"""Patterns that say what stays out of a pack: the clear part of gitignore's syntax.

A line is a pattern; `#` begins a comment, `!` takes files back in, `/` at the end means folders only, `/` at the beginning
or in the middle ties the pattern to the project folder, `*`, `?` and `[...]` stay within one name, `**` crosses folders.
The last pattern that fits decides; nothing is taken back in below a folder that is out. There is one file, in the project folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from himalia.errors import PackError


@dataclass(frozen=True)
class Pattern:
    regex: re.Pattern[str]
    folders_only: bool
    negated: bool


class Ignore:
    """Patterns, the later ones stronger."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.patterns = [p for p in map(_parse, lines) if p is not None]

    def __call__(self, path: str, is_folder: bool) -> bool:
        """Whether `path`, relative to the project folder with slashes, stays out."""
        out = False
        for p in self.patterns:
            if (is_folder or not p.folders_only) and p.regex.fullmatch(path):
                out = not p.negated
        return out


def _parse(line: str) -> Pattern | None:
    line = line.rstrip("\r\n").rstrip(" ")
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    text = line[1:] if negated else line
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    regex = "".join(_translate(text))
    try:
        compiled = re.compile(regex if anchored else f"(?:.*/)?{regex}", re.DOTALL)
    except re.error:
        raise PackError(f"“{line}” is no pattern for files: look at its square brackets.") from None
    return Pattern(compiled, folders_only, negated)


def _translate(text: str) -> Iterable[str]:
    i = 0
    while i < len(text):
        if text.startswith("**/", i) and (i == 0 or text[i - 1] == "/"):
            yield "(?:.*/)?"
            i += 3
        elif text.startswith("**", i):
            yield ".*"
            i += 2
        elif text[i] == "*":
            yield "[^/]*"
            i += 1
        elif text[i] == "?":
            yield "[^/]"
            i += 1
        elif text[i] == "[" and (end := text.find("]", i + 2)) > 0:
            inside = text[i + 1 : end].replace("\\", "\\\\")
            yield f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
            i = end + 1
        elif text[i] == "\\" and i + 1 < len(text):
            yield re.escape(text[i + 1])
            i += 2
        else:
            yield re.escape(text[i])
            i += 1
