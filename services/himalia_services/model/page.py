"""A place in a list that is newest first, and the opaque token a client carries it in."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from himalia_services.errors import Invalid

DEFAULT_LIMIT = 50
MOST = 200


@dataclass(frozen=True)
class Cursor:
    """After this row; rows of one moment are told apart by their id."""

    created_at: datetime
    id: str

    def token(self) -> str:
        text = json.dumps([self.created_at.astimezone(UTC).isoformat(), self.id], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, token: str) -> Cursor:
        try:
            moment, id = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
            created_at = datetime.fromisoformat(moment)
            if created_at.tzinfo is None or not isinstance(id, str):
                raise ValueError(token)
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise Invalid(
                "This page_token is not one of ours. Take `next_token` of the page before, or begin without.",
                code="page_token",
            ) from error
        return cls(created_at, id)


@dataclass(frozen=True)
class Paging:
    """How many, and after what."""

    limit: int = DEFAULT_LIMIT
    after: Cursor | None = None
