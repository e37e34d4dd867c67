"""The internal API's one caller is the hub: a bearer token from a 0600 file, on a unix socket that only our user can open."""

from __future__ import annotations

import hmac

from fastapi import Request

from himalia_services.errors import Unauthorized


def hub_only(request: Request) -> None:
    """A dependency of every internal route."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    expected: str = request.app.state.internal_token
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected.encode()):
        raise Unauthorized("This is between the hub and the control plane; it takes their internal token.")
