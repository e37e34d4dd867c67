"""`himalia workspaces`."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer
from rich.markup import escape

from himalia import schema
from himalia.cli.output import AsJson, ago, emit, facts, say, status, table
from himalia.cli.progress import Progress
from himalia.client import connect
from himalia.errors import Conflict
from himalia.workspace import Workspace

app = typer.Typer(help="Workspaces: persistent containers to work in.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The workspace's name; none is the default one.")]
Environment = Annotated[
    str | None, typer.Option("--environment", "-e", help="What it is made from, as in ada/vision:3.")
]
Machine = Annotated[str | None, typer.Option("--machine", "-m", help="A size, as in small.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


def called(info: schema.Workspace) -> str:
    return info.name or "(default)"


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Your workspaces."""
    with connect() as client:
        found = [workspace.info for workspace in client.workspaces.list()]
    if as_json:
        emit(found)
        return
    rows = [
        (escape(called(w)), status(w.status), escape(w.environment or ""), w.machine, ago(w.started_at), w.id)
        for w in found
    ]
    table(
        ("name", "status", "environment", "machine", "started", "id"),
        rows,
        "You have no workspace yet. Start one: himalia workspaces start",
    )


@app.command()
def show(name: Name = "", as_json: AsJson = False) -> None:
    """One workspace and its addresses."""
    with connect() as client:
        info = client.workspaces.get(name).info
    if as_json:
        emit(info)
        return
    urls = info.urls
    facts(
        [
            ("workspace", f"{escape(info.owner)}/{escape(called(info))}  [dim]{info.id}[/dim]"),
            ("status", status(info.status) + (f"  {escape(info.reason_message)}" if info.reason_message else "")),
            ("environment", escape(info.environment or "")),
            ("machine", info.machine),
            ("last save", escape(info.latest_snapshot.ref) if info.latest_snapshot else ""),
            ("JupyterLab", urls.lab if urls else ""),
            ("VS Code", urls.vscode if urls else ""),
            ("terminal", urls.terminal if urls else ""),
            ("TensorBoard", urls.tensorboard if urls else ""),
        ]
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and single dashes.")],
    environment: Environment = None,
    machine: Machine = None,
    display_name: Annotated[str, typer.Option(help="A free text for it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a named workspace beside the default one, without starting it."""
    with connect() as client:
        made = client.workspaces.create(name, display_name=display_name, environment=environment, machine=machine)
    if as_json:
        emit(made.info)
    else:
        say(f"{name} is there. Start it: himalia workspaces start {name}")


@app.command()
def start(
    name: Name = "",
    environment: Environment = None,
    machine: Machine = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Start a workspace, made when there is none of that name."""
    with connect() as client, Progress(quiet=as_json) as progress:
        started = client.workspaces.start(
            name,
            environment=environment,
            machine=machine,
            wait=wait,
            progress=lambda w: progress.step(w.status, w.reason_message),
        )
    _tell(started, as_json)


def _tell(workspace: Workspace, as_json: bool) -> None:
    if as_json:
        emit(workspace.info)
    elif workspace.urls is not None:
        say(f"{called(workspace.info)} is {workspace.status}: {workspace.urls.lab}")
    else:
        say(f"{called(workspace.info)} is {workspace.status}.")


@app.command()
def stop(name: Name = "", wait: Wait = True, as_json: AsJson = False) -> None:
    """Stop a workspace. What was installed and written stays."""
    with connect() as client:
        _tell(client.workspaces.get(name).stop(wait=wait), as_json)


@app.command()
def delete(name: Name = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a workspace and what was installed in it. Home, group folders and saved environments stay."""
    with connect() as client:
        workspace = client.workspaces.get(name)
        if not yes and not as_json:
            typer.confirm(
                f"Delete the workspace {called(workspace.info)} and everything installed in it?", abort=True, err=True
            )
        workspace.delete()
    if as_json:
        emit({"deleted": workspace.id})
    else:
        say(f"{called(workspace.info)} is deleted.")


@app.command("open")
def open_(name: Name = "", as_json: AsJson = False) -> None:
    """Open a workspace in the browser."""
    with connect() as client:
        info = client.workspaces.get(name).info
    if info.urls is None:
        raise Conflict(
            f"{called(info)} is {info.status}. Start it: himalia workspaces start {info.name}".rstrip(),
            code="not_running",
        )
    if as_json:
        emit(info.urls)
        return
    typer.echo(info.urls.lab)
    webbrowser.open(info.urls.lab)
