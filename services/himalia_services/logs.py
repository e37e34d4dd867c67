"""What goes into the log: one JSON object per line, of everything in the process, without anybody's secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

import structlog

GONE = "[removed]"
#: A token as it stands in headers, addresses and forms.
_SHAPES = (
    re.compile(r"(?i)\b((?:bearer|token|basic)\s+)[\w.+/=-]{8,}"),
    re.compile(r"(?i)\b((?:access_token|token|code|state|code_verifier|client_secret|password)=)[^&\s\"']+"),
    re.compile(
        r"(?i)([\"'](?:access_token|token|code_verifier|client_secret|password|authorization|cookie)[\"']\s*:\s*[\"'])[^\"']+"
    ),
)


class Scrub:
    """Takes secrets out of every value of a line: ours by their content, other people's by the shape they come in."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted((re.escape(s) for s in secrets if len(s) >= 8), key=len, reverse=True)
        self._known = re.compile("|".join(known)) if known else None

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: self._clean(value) for key, value in event.items()}

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._clean(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(inner) for inner in value]
        return value if value is None or isinstance(value, bool | int | float) else self.text(str(value))

    def text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(GONE, text)
        for shape in _SHAPES:
            text = shape.sub(rf"\g<1>{GONE}", text)
        return text


def configure(secrets: Iterable[str] = ()) -> None:
    """Send our log and that of every library to stderr."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter(), structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                Scrub(secrets),
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # a line for every call they make, every start and stop
    for name in ("httpx", "httpcore", "uvicorn", "alembic", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.WARNING)
