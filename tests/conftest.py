"""What every suite shares: a test that needs something this machine lacks says so, and fails where CI runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache

import pytest

from platform_fixture import platform

__all__ = ["platform"]  # one installation for every suite that wants a real one


@cache
def _missing(what: str) -> str:
    """Why `what` cannot be used here; empty when it can."""
    if what == "docker":
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        if shutil.which("docker") is None:
            return "no docker command; install Docker Engine or run `make up` as root once"
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return "" if answer.returncode == 0 else f"Docker does not answer: {answer.stderr.strip()}"
    if what == "browser":
        found = os.environ.get("HIMALIA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        return "" if found else "no Chromium; install the package chromium or set HIMALIA_CHROMIUM"
    if what == "root":
        return "" if os.geteuid() == 0 else "not root"
    if what == "xattr":
        return _without_attributes()
    return ""


def _without_attributes() -> str:
    """Tests write below the temporary folder: whether files there can have extended attributes."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.name, "user.himalia", b"1")
        except OSError as error:
            return f"files in {tempfile.gettempdir()} take no extended attributes ({error.strerror})"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in ("docker", "browser", "root", "xattr"):
        if item.get_closest_marker(mark) and (why := _missing(mark)):
            if os.environ.get("CI"):
                pytest.fail(f"CI must run this test, and cannot: {why}", pytrace=False)
            pytest.skip(why)
