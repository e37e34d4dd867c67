"""`limit` and `page_token` of a list, as a dependency."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from himalia_services.model.page import DEFAULT_LIMIT, MOST, Cursor, Paging


def paging(
    limit: Annotated[int, Query(ge=1, le=MOST, description="How many at most")] = DEFAULT_LIMIT,
    page_token: Annotated[str, Query(max_length=512, description="`next_token` of the page before")] = "",
) -> Paging:
    return Paging(limit=limit, after=Cursor.read(page_token) if page_token else None)


Pages = Annotated[Paging, Depends(paging)]
