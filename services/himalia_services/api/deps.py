"""What a route may ask for: the parts of the control plane."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from himalia_services.parts import Parts


def parts(request: Request) -> Parts:
    return request.app.state.parts


Deps = Annotated[Parts, Depends(parts)]
