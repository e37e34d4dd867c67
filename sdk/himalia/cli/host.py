"""Commands about the machine that runs Himalia, where this is not that machine: they say so."""

from __future__ import annotations

import typer

from himalia.errors import Unavailable

_COMMANDS = {
    "up": "Start Himalia on this machine.",
    "down": "End Himalia on this machine.",
    "status": "What runs on this machine.",
    "users": "People of this installation.",
    "groups": "Groups of this installation.",
}


def register(app: typer.Typer, *, have: set[str]) -> None:
    """Add what is missing of these commands, as sentences."""
    for name, text in _COMMANDS.items():
        if name not in have:
            app.command(
                name,
                help=f"{text} (Not here.)",
                hidden=True,
                context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
            )(_elsewhere(name))


def _elsewhere(name: str):
    def command() -> None:
        raise Unavailable(
            f"`himalia {name}` works on the machine that runs Himalia: there, in its folder, it is .venv/bin/himalia {name}. Here you can log in, and use workspaces, env and job.",
            code="not_this_machine",
        )

    return command
