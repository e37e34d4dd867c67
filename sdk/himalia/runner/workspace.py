"""`himalia-run workspace`: the server of a person's workspace."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from himalia.runner import UNUSABLE, process, surroundings
from himalia.runner.process import JOVYAN, User

ENVIRONMENT = Path("/run/himalia/workspace/environment.json")
VSCODE_USER = ".local/share/code-server/User"
VSCODE_STATE = surroundings.RUNTIME / "code-server"

VSCODE_SETTINGS = {
    "chat.disableAIFeatures": True,
    "python.defaultInterpreterPath": f"{surroundings.VENV}/bin/python",
    "security.workspace.trust.enabled": False,
    "telemetry.telemetryLevel": "off",
    "terminal.integrated.defaultProfile.linux": "bash",
    "update.showReleaseNotes": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
}


def run() -> int:
    """Start what environment.json says; its exit code."""
    try:
        read = json.loads(ENVIRONMENT.read_text())
        env, argv = dict(read["env"]), list(read["argv"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Never the content: it holds the workspace's token.
        print(
            f"himalia-run: {ENVIRONMENT} cannot be read ({type(error).__name__}); start the workspace anew.",
            file=sys.stderr,
        )
        return UNUSABLE
    prepare()
    ending = process.run(command(argv), env=server(env), cwd=JOVYAN.home)
    if ending.error:
        print(f"himalia-run: {ending.error}", file=sys.stderr)
    return ending.exit_code


def prepare(user: User = JOVYAN) -> None:
    """Folders usable, settings there."""
    surroundings.make_runtime(user)
    surroundings.adopt(user)
    surroundings.seed(
        user.home,
        {
            ".bashrc": Path("/etc/skel/.bashrc"),
            ".profile": Path("/etc/skel/.profile"),
            f"{VSCODE_USER}/settings.json": json.dumps(VSCODE_SETTINGS, indent=4) + "\n",
        },
        user,
    )
    _link_vscode(user)


def command(argv: Sequence[str]) -> list[str]:
    """The hub names its server as it knows it; ours is in our own prefix."""
    name, *arguments = argv
    if os.path.basename(name) == "jupyterhub-singleuser":
        return [str(surroundings.OURS / "bin/jupyterhub-singleuser"), *arguments]
    return [name, *arguments]


def server(env: Mapping[str, str]) -> dict[str, str]:
    """The server's variables: those of the hub, and the page it opens with."""
    return surroundings.server_environment(surroundings.environment({"JUPYTERHUB_DEFAULT_URL": "/lab", **env}))


def _link_vscode(user: User) -> None:
    """Settings are personal and live in home; sockets and state do not, since several workspaces share one home."""
    VSCODE_STATE.mkdir(mode=0o700)
    os.chown(VSCODE_STATE, user.uid, user.gid)
    link = VSCODE_STATE / "User"
    link.symlink_to(user.home / VSCODE_USER)
    os.chown(link, user.uid, user.gid, follow_symlinks=False)
