"""The commands of `himalia` that are about this machine: up, down, status, users, groups."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from himalia_services.local import people
from himalia_services.local.home import Home, Trouble
from himalia_services.local.hub import Hub

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
users = typer.Typer(help="People of this installation, each with a password of their own.", no_args_is_help=True)
groups = typer.Typer(help="Groups: they share environments and a folder at ~/shared/<group>.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The person's name.")]
Group = Annotated[str, typer.Argument(help="The group's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this machine to `himalia`."""
    app.command("up", help="Start Himalia on this machine. Doing it again changes nothing.")(up)
    app.command("down", help="End Himalia on this machine. All data stay.")(down)
    app.command("status", help="What runs here, and what this machine does not offer.")(status)
    app.add_typer(users, name="users")
    app.add_typer(groups, name="groups")


@contextmanager
def _home() -> Iterator[Home]:
    """The installation the environment names; Trouble becomes its sentence and exit code 1."""
    try:
        yield Home.read(os.environ)
    except Trouble as trouble:
        err.print(f"[red]{escape(str(trouble))}[/red]")
        raise typer.Exit(1) from None


def _telling() -> Callable[[str], None]:
    return lambda text: out.print(f"[cyan]•[/cyan] {escape(text)}")


def up() -> None:
    from himalia_services.local.up import up as start

    with _home() as home, out.status("Starting Himalia"):
        result = start(home, _telling())
    out.print(f"[bold]Himalia is at {result.url}[/bold]")
    if result.first:
        name, password = result.first
        out.print(
            f"Log in as [bold]{escape(name)}[/bold] with the password [bold]{password}[/bold]  (shown this once; you are an admin)"
        )
        out.print("More people: himalia users add NAME")
    if result.building:
        out.print("The images are being built behind this; `himalia status` and the spawn page show how far they are.")


def down() -> None:
    from himalia_services.local.up import down as end

    with _home() as home, out.status("Ending Himalia"):
        result = end(home, _telling())
    out.print(
        f"Ended: {', '.join(result.stopped)}. All data stay in {home.path}."
        if result.stopped
        else "Nothing was running."
    )
    if result.jobs:
        out.print(f"{result.jobs} job containers go on; the next `himalia up` collects their logs and outputs.")


def status(as_json: AsJson = False) -> None:
    from himalia_services.local.status import status as look

    with _home() as home:
        found = look(home)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        _show(found)
    if found["problems"]:
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    if "processes" in found:
        table = Table(box=None, pad_edge=False)
        for title in ("process", "state", "pid", "up", "ports"):
            table.add_column(title, justify="right" if title in ("pid", "up") else "left")
        for part in found["processes"]:
            state = "[green]running[/green]" if part["running"] else "[red]not running[/red]"
            ports = ", ".join(map(str, part["ports"]))
            table.add_row(part["name"], state, str(part["pid"] or ""), _duration(part["uptime_seconds"]), ports)
        answers = found["registry"]["running"]
        table.add_row(
            "registry",
            "[green]running[/green]" if answers else "[yellow]not running[/yellow]",
            "",
            "",
            found["registry"]["address"],
        )
        out.print(f"[bold]{found['url']}[/bold]  {found['home']}")
        out.print(table)
        images = found["images"]
        for name, tag in images["built"].items():
            out.print(f"image {name}: {tag}")
        if images["building"]:
            out.print(
                f"image {images['building']}: step {images['step']} of {images['steps']}, {escape(images['message'] or '')}"
            )
        out.print(
            f"Docker Engine {found['engine']['version'] or 'does not answer'}, {found['workspaces'] or 0} workspaces and {found['jobs'] or 0} jobs running"
        )
    for lack in found["lacks"]:
        out.print(f"[yellow]not offered[/yellow] {escape(lack)}")
    for problem in found["problems"]:
        err.print(f"[red]{escape(problem)}[/red]")


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return ""
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


@users.command("add")
def users_add(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="An admin of this installation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a person and print their password, once. The first person is an admin."""
    with _home() as home:
        password, is_admin = people.add(home, name, admin=admin)
    if as_json:
        typer.echo(json.dumps({"name": name.strip().lower(), "password": password, "admin": is_admin}))
        return
    out.print(
        f"{name.strip().lower()}{' (admin)' if is_admin else ''} logs in with the password [bold]{password}[/bold]  (shown this once)"
    )


@users.command("password")
def users_password(name: Name) -> None:
    """Give somebody a new password and print it, once."""
    with _home() as home:
        out.print(f"{name} logs in with the password [bold]{people.renew(home, name)}[/bold]  (shown this once)")


@users.command("list")
def users_list(as_json: AsJson = False) -> None:
    """Everybody, with their groups and what they run."""
    with _home() as home:
        found = people.listing(home)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("name", "role", "groups", "running"):
        table.add_column(title)
    for person in found:
        role = "admin" if person["admin"] else "" if person["password"] else "cannot log in"
        table.add_row(
            escape(person["name"]), role, escape(", ".join(person["groups"])), escape(", ".join(person["running"]))
        )
    out.print(table)


@users.command("remove")
def users_remove(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Remove a person and their workspaces. Their home volume stays and is listed in trash.json."""
    with _home() as home:
        if not yes:
            typer.confirm(
                f"Remove {name} and everything installed in their workspaces? Their home folder is kept in the trash.",
                abort=True,
            )
        with Hub(home) as hub:
            hub.remove(name)
        home.passwords.remove(name)
    out.print(f"{name} is gone.")


@groups.command("add")
def groups_add(group: Group) -> None:
    """Make a group."""
    with _home() as home, Hub(home) as hub:
        hub.add_group(people.check_group(group))
    out.print(f"The group {group} is there. Put somebody in it: himalia groups join {group} NAME")


@groups.command("remove")
def groups_remove(group: Group) -> None:
    """Remove a group. Its folder's volume stays."""
    with _home() as home, Hub(home) as hub:
        hub.remove_group(group)
    out.print(f"The group {group} is gone.")


@groups.command("join")
def groups_join(
    group: Group, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Who joins.")]
) -> None:
    """Put people into a group. Their workspaces have its folder from their next start on."""
    with _home() as home, Hub(home) as hub:
        hub.join(group, names)
    out.print(f"{', '.join(names)} joined {group}; workspaces have ~/shared/{group} from their next start on.")


@groups.command("leave")
def groups_leave(
    group: Group, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Who leaves.")]
) -> None:
    """Take people out of a group. Their workspaces lose its folder at their next start."""
    with _home() as home, Hub(home) as hub:
        hub.leave(group, names)
    out.print(f"{', '.join(names)} left {group}; workspaces lose ~/shared/{group} at their next start.")


@groups.command("list")
def groups_list(as_json: AsJson = False) -> None:
    """The groups and who is in them."""
    with _home() as home, Hub(home) as hub:
        found = [
            {"name": g["name"], "people": sorted(g.get("users") or [])}
            for g in sorted(hub.groups(), key=lambda g: g["name"])
        ]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("group")
    table.add_column("people")
    for group in found:
        table.add_row(escape(group["name"]), escape(", ".join(group["people"])))
    out.print(table)
