"""Logging in and out, and who one is."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated

import typer

from himalia import login as logins
from himalia.cli.output import AsJson, emit, facts, say
from himalia.client import Himalia, connect
from himalia.errors import Invalid
from himalia.login import Login


def register(app: typer.Typer) -> None:
    """Add login, logout and whoami."""
    app.command("login")(login)
    app.command("logout")(logout)
    app.command("whoami")(whoami)


def login(
    url: Annotated[str | None, typer.Option(help="Where Himalia is, as in http://himalia.localhost:8000.")] = None,
    password: Annotated[
        bool, typer.Option("--password", help="Sign in with name and password instead of a token.")
    ] = False,
    user: Annotated[str | None, typer.Option(help="Your name, with --password.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a login on this machine. It is read without echo, or from stdin when that is no terminal."""
    address = logins.service_url(url or os.environ.get("HIMALIA_URL") or logins.DEFAULT_URL)
    made = _by_password(address, user) if password else _by_token(address)
    with Himalia(made) as client:
        me = client.me()
    path = logins.store(Login(address, made.token, made.source, me.name))
    if as_json:
        emit({"name": me.name, "url": address, "stored": str(path)})
    else:
        say(f"Logged in as {me.name}. The login is kept in {path}, for you alone; himalia logout forgets it.")


def _by_password(address: str, user: str | None) -> Login:
    name = user or typer.prompt("Name", err=True)
    return logins.sign_in(address, name, _secret(f"Password of {name}: "))


def _by_token(address: str) -> Login:
    if sys.stdin.isatty():
        say(f"1. Open {logins.hub_url(address)}/hub/token")
        say("2. Ask for a new token. Put this into its field for scopes, so that it can do no more than it must:")
        say(f"   {' '.join(logins.LOGIN_SCOPES)}")
        say("3. Paste the token here; it is not shown.")
    token = _secret("Token: ")
    if not token:
        raise Invalid("There was no token. Nothing was changed.", code="no_token")
    return Login(address, token, "argument")


def _secret(prompt: str) -> str:
    return (getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()).strip()


def logout(as_json: AsJson = False) -> None:
    """Forget the login that is kept on this machine."""
    kept = logins.stored()
    gone = logins.forget()
    if as_json:
        emit({"forgotten": gone})
    elif kept is not None:
        say(
            f"Forgotten. The token itself is still good until it expires; revoke it at {logins.hub_url(kept.url)}/hub/token."
        )
    else:
        say("There was no login on this machine.")


def whoami(as_json: AsJson = False) -> None:
    """Who you are to Himalia, and where the login is from."""
    with connect() as client:
        me = client.me()
    if as_json:
        emit(me)
        return
    facts(
        [
            ("name", me.name + (" (admin)" if me.admin else "")),
            ("groups", ", ".join(me.groups)),
            ("platform", client.login.url),
            ("login", client.login.source),
        ]
    )
