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
:root { color-scheme: light dark; --line: #8884; --soft: #888; --accent: #c2571a; }
body { max-width: 40rem; margin: 12vh auto 4rem; padding: 0 1.25rem; font: 16px/1.55 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.75rem; letter-spacing: -.01em; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; }
.who { color: var(--soft); }
.go { display: inline-block; margin: 1.25rem 1rem 0 0; padding: .5rem 1rem; border-radius: .4rem; background: var(--accent); color: #fff;
  text-decoration: none; }
.go:hover { filter: brightness(1.1); }
a { color: var(--accent); }
.go:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
ul { margin: .5rem 0; padding: 0; list-style: none; border: 1px solid var(--line); border-radius: .4rem; }
li { padding: .35rem .75rem; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
li:first-child { border-top: 0; }
code { font: .875em ui-monospace, monospace; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
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
<p class="who">You are <strong>{escape(person.name)}</strong>{", an admin" if person.admin else ""}{escape(groups)}.</p>
<p><a class="go" href="{escape(settings.public_url)}/hub/home">Your workspaces</a></p>
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
