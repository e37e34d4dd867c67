"""The `Idempotency-Key` of a creation and what it stands for, as a dependency."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Header, Request

from himalia_services.control.idempotency import Key
from himalia_services.errors import Invalid

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def idempotency(
    request: Request,
    idempotency_key: Annotated[
        str, Header(description="The same key with the same body is answered like the first time")
    ] = "",
) -> Key:
    if idempotency_key and not _KEY.fullmatch(idempotency_key):
        raise Invalid(
            "An Idempotency-Key is 1 to 255 printable characters without spaces, such as a uuid.",
            code="idempotency_key",
        )
    asked = hashlib.sha256(f"{request.method}\n{request.url.path}\n{request.url.query}\n".encode())
    asked.update(await request.body())
    return Key(idempotency_key, asked.hexdigest())


Idempotent = Annotated[Key, Depends(idempotency)]
