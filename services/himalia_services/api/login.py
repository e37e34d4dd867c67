"""Login of browsers by the hub's OAuth, logout, and the small page at the service's address."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from himalia_services.api import landing
from himalia_services.api.auth import COOKIE, Asking, Seal, credential
from himalia_services.api.deps import Deps
from himalia_services.errors import Forbidden
from himalia_services.hub import Challenge
from himalia_services.settings import SERVICE_PATH, Settings

router = APIRouter(include_in_schema=False)

HOME = f"{SERVICE_PATH}/"
STATE_COOKIE = f"{COOKIE}-oauth-state-"
STATE_SECONDS = 600
#: Logins that were begun and not ended leave a cookie each; a browser that has this many starts over.
STATES_MOST = 8


@router.get("/")
async def home(request: Request, person: Asking, parts: Deps) -> Response:
    seal: Seal = request.app.state.seal
    given = credential(request, seal)
    xsrf = seal.xsrf(given.token) if given is not None and given.via == "cookie" else ""
    return HTMLResponse(landing.page(person, parts, xsrf), headers=landing.HEADERS)


@router.get("/login")
async def login(request: Request, parts: Deps, next: str = HOME) -> Response:
    if request.headers.get("Host", "").lower() != urlsplit(parts.settings.service_origin).netloc:
        # our cookies would belong to the wrong name
        return RedirectResponse(
            f"{parts.settings.service_origin}{request.url.path}?{request.url.query}", status_code=302
        )
    state, challenge = secrets.token_urlsafe(32), Challenge.fresh()
    answer = RedirectResponse(parts.hub.authorize_url(state, challenge), status_code=302)
    begun = [name for name in request.cookies if name.startswith(STATE_COOKIE)]
    for name in begun if len(begun) >= STATES_MOST else ():
        _drop(answer, name, parts.settings)
    sealed = request.app.state.seal.close({"state": state, "verifier": challenge.verifier, "next": local(next)})
    _set(answer, STATE_COOKIE + state[:8], sealed, parts.settings, STATE_SECONDS)
    return answer


@router.get("/oauth_callback")
async def callback(request: Request, parts: Deps, state: str = "", code: str = "", error: str = "") -> Response:
    name = STATE_COOKIE + state[:8]
    seal: Seal = request.app.state.seal
    begun = seal.open(request.cookies.get(name, ""), max_age=STATE_SECONDS)
    if not state or not hmac.compare_digest(begun.get("state", "").encode(), state.encode()):
        raise Forbidden(
            f"This login was begun in another browser, or more than ten minutes ago. Begin again at {parts.settings.service_url}/",
            code="login_state",
        )
    if error or not code:
        raise Forbidden("The hub did not let you in. Ask an admin whether you may use Himalia.", code="login_refused")
    token = await parts.hub.token_for_code(code, begun["verifier"])
    answer = RedirectResponse(local(begun["next"]), status_code=302)
    _set(answer, COOKIE, seal.close({"t": token}), parts.settings, None)
    _drop(answer, name, parts.settings)
    return answer


@router.get("/logout")
async def logout(parts: Deps) -> Response:
    """Forgets the login here and ends the hub's session, which takes back the token we hold."""
    answer = RedirectResponse(parts.hub.logout_url, status_code=302)
    _drop(answer, COOKIE, parts.settings)
    return answer


def local(path: str) -> str:
    """`path`, when it is one of ours and nothing else: after a login nobody is sent anywhere but here."""
    plain = all("!" <= c <= "~" and c != "\\" for c in path)
    if not path.startswith(HOME) or not plain or ".." in path.partition("?")[0].split("/"):
        return HOME
    return path


def _set(answer: Response, name: str, value: str, settings: Settings, seconds: int | None) -> None:
    answer.set_cookie(name, value, max_age=seconds, path=HOME, httponly=True, samesite="lax", secure=settings.secure)


def _drop(answer: Response, name: str, settings: Settings) -> None:
    answer.delete_cookie(name, path=HOME, httponly=True, samesite="lax", secure=settings.secure)
