"""`make demo` tells its story, twice, and says no when something is off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from platform_fixture import Platform

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

DEMO = Path(__file__).parents[2] / "docs" / "tutorial" / "demo.py"


def tell(platform: Platform, **more: str) -> subprocess.CompletedProcess[str]:
    names = {"DEMO_ADA": "storyada", "DEMO_BEN": "storyben"}
    return subprocess.run(
        [sys.executable, str(DEMO)], env=platform.environ | names | more, capture_output=True, text=True, timeout=1200
    )


def test_the_story_is_true_and_can_be_told_again(platform: Platform) -> None:
    for _ in range(2):
        done = tell(platform)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Ben has a model that reads 9" in done.stdout
        assert "none of" in done.stdout


def test_somebody_whose_password_nobody_told_is_named(platform: Platform) -> None:
    person = platform.person("stranger")
    done = tell(platform, DEMO_ADA=person.name)
    assert done.returncode == 1
    assert "DEMO_ADA_PASSWORD" in done.stderr
