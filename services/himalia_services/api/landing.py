"""The page at the service's address: who you are, where to go, and how programs get in. One small document, no script."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from himalia import scopes
from himalia_services.api.headers import SECURITY
from himalia_services.model.caller import Caller
from himalia_services.parts import Parts
from himalia_services.settings import SERVICE, SERVICE_PATH

ENTER = f"access:services!service={SERVICE}"
#: Where programs look when nobody tells them.
USUAL = "http://himalia.localhost:8000"

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1f2328; --line: #dee2e6; --quiet: #5c636a; --button: #4360c4; --link: #3551ad; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #242424; --text: #e6e6e6; --line: #424242; --quiet: #b0b4ba; --link: #889bd7; }
}
body { max-width: 640px; margin: 10vh auto 48px; padding: 0 20px; background: var(--ground); color: var(--text);
  font: 14px/1.5 "Inter Variable", Inter, system-ui, sans-serif; }
h1 { margin: 0; font-size: 22px; font-weight: 600; }
h2 { margin: 32px 0 6px; font-size: 15px; font-weight: 600; }
p { margin: 6px 0; }
.quiet { color: var(--quiet); }
.button { display: inline-block; margin-top: 14px; padding: 7px 14px; border-radius: 8px; background: var(--button); color: #fff;
  text-decoration: none; }
.button:hover { background: #3551ad; }
a { color: var(--link); }
:focus-visible { outline: 2px solid #4f6ac6; outline-offset: 2px; }
ul { margin: 10px 0; padding: 0; list-style: none; border: 1px solid var(--line); border-radius: 8px; }
li { padding: 5px 12px; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
li:first-child { border-top: 0; }
code { font: 13px/1.5 ui-monospace, Consolas, monospace; }
footer { margin-top: 40px; padding-top: 12px; border-top: 1px solid var(--line); }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {"Content-Security-Policy": f"{SECURITY['Content-Security-Policy']}; style-src 'sha256-{_HASH}'"}


def page(person: Caller, parts: Parts, xsrf: str) -> str:
    hub, settings = parts.hub, parts.settings
    groups = f", in {', '.join(sorted(person.groups))}" if person.groups else ""
    wanted = "".join(
        f"<li><code>{escape(scope)}</code></li>" for scope in (ENTER, *(f"{scope}!user" for scope in scopes.PERSON))
    )
    command = "himalia login" if settings.public_url == USUAL else f"himalia login --url {settings.public_url}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="xsrf" content="{escape(xsrf)}">
<title>Himalia</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Himalia</h1>
<p class="quiet">You are <strong>{escape(person.name)}</strong>{", an admin" if person.admin else ""}{escape(groups)}.</p>
<p><a class="button" href="{escape(settings.public_url)}/hub/home">Your workspaces</a></p>
<h2>For programs</h2>
<p>Inside a workspace the command <code>himalia</code> and the Python package of that name are logged in already. From elsewhere,
make a token on <a href="{escape(hub.token_page)}">the hub's token page</a>, give it these scopes, and run <code>{escape(command)}</code>.</p>
<ul>{wanted}</ul>
<p>The API is described in <a href="{SERVICE_PATH}/api/v1/openapi.json">openapi.json</a>.</p>
</main>
<footer><a href="{SERVICE_PATH}/logout">Log out</a></footer>
</body>
</html>
"""
