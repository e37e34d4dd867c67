"""All commands put together, and how errors become sentences and exit codes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated

import typer

from himalia import __version__
from himalia.cli import account, environments, host, jobs, workspaces
from himalia.cli.output import complain
from himalia.errors import HimaliaError
from himalia.login import inside_job, inside_workspace

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong input, 3 not found, 4 not logged in or not allowed, 5 not available, 130 interrupted. `job submit --wait` and `job wait` end with the job's own."


def build() -> typer.Typer:
    """The command with everything this installation offers; a machine that runs Himalia adds its own by entry points."""
    app = typer.Typer(
        name="himalia",
        help="Work, save the environment, share it, run it as a job.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    account.register(app)
    app.add_typer(workspaces.app, name="workspaces")
    app.add_typer(environments.app, name="env")
    app.add_typer(jobs.app, name="job")
    if not (inside_workspace(os.environ) or inside_job(os.environ)):
        _add_contributed(app)
    host.register(app, have=_names(app))
    return app


def _add_contributed(app: typer.Typer) -> None:
    for point in sorted(entry_points(group="himalia.commands"), key=lambda point: point.name):
        try:
            point.load()(app)
        except ModuleNotFoundError as missing:
            # The SDK alone brings the entry point without what it needs; a module of ours that is missing is a fault.
            if (missing.name or "").startswith("himalia_services."):
                raise


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    try:
        build()(args=list(arguments), prog_name="himalia")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except HimaliaError as error:
        before_arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return complain(error, as_json="--json" in before_arguments)
    except KeyboardInterrupt:
        return 130
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def _names(app: typer.Typer) -> set[str]:
    commands = {command.name for command in app.registered_commands}
    return {name for name in commands | {group.name for group in app.registered_groups} if name}
