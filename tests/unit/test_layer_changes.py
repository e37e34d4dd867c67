"""Finding the upper folder in a mount table, and what stays out of a save."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from himalia_services.errors import EngineError
from himalia_services.snapshot import changes

DOCKER_20 = (
    b"115 68 0:49 / / rw,relatime master:3 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/var/lib/docker/overlay2/abc/diff,"
    b"workdir=/var/lib/docker/overlay2/abc/work\n"
    b"116 115 0:52 / /proc rw,nosuid - proc proc rw\n"
    b"120 115 254:0 /v/_data /home/jovyan rw,relatime master:1 - ext4 /dev/vda rw\n"
    b"121 115 254:0 /hosts /etc/hosts rw,relatime - ext4 /dev/vda rw\n"
)


def test_the_upper_folder_is_the_one_of_the_root() -> None:
    assert changes.upper_folder(changes.mount_lines(DOCKER_20)) == b"/var/lib/docker/overlay2/abc/diff"


def test_the_last_mount_at_the_root_is_the_one_that_counts() -> None:
    table = DOCKER_20 + b"130 115 0:60 / / rw - overlay overlay rw,upperdir=/later,workdir=/w\n"
    assert changes.upper_folder(changes.mount_lines(table)) == b"/later"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (rb"/with\040space", b"/with space"),
        (rb"/com\134,ma", b"/com,ma"),
        (rb"/co\134:lon", b"/co:lon"),
        (rb"/n\012l", b"/n\nl"),
    ],
)
def test_what_the_kernel_escapes_is_undone(written: bytes, meant: bytes) -> None:
    table = b"1 2 0:1 / / rw - overlay overlay rw,upperdir=" + written.replace(b"134,", b"134\\054") + b",workdir=/w\n"
    assert changes.upper_folder(changes.mount_lines(table)) == meant


def test_a_root_that_is_no_overlay_is_refused_with_a_way_out() -> None:
    table = b"1 2 0:1 / / rw - btrfs /dev/sda rw\n"
    with pytest.raises(EngineError, match=r"btrfs, not on overlayfs.*overlay2"):
        changes.upper_folder(changes.mount_lines(table))


def test_a_stopped_container_of_an_engine_that_tells_nothing_is_refused_with_a_way_out() -> None:
    with pytest.raises(EngineError, match="Start the workspace and save it then"):
        changes.find(0, "c" * 64)


def test_a_process_that_is_not_the_containers_any_more_is_not_believed(tmp_path: Path) -> None:
    assert not changes.belongs(os.getpid(), "c" * 64)
    assert not changes.belongs(2**22 + 1, "c" * 64)
    found = changes.find(os.getpid(), "c" * 64, upper=str(tmp_path), mounts=["/home/jovyan"])
    assert (found.upper, found.mounts) == (tmp_path, {b"home/jovyan"})


def test_an_upper_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read here"):
        changes.find(0, "c" * 64, upper=str(tmp_path / "none"))


def test_a_pattern_is_one_of_names_in_its_folder() -> None:
    exclusions = changes.exclusions(["/tmp/himalia-*", "/run"], [b"data"])
    hidden = [b"tmp/himalia-1", b"run", b"data"]
    seen = [b"tmp/himalia", b"himalia-1", b"a/tmp/himalia-1", b"running", b"tmp"]
    for path in hidden + seen:
        parent, _, name = path.rpartition(b"/")
        assert exclusions.hides(parent, name, path) is (path in hidden), path


def test_the_sockets_of_editor_and_tensorboard_are_no_loss_a_save_reports() -> None:
    exclusions = changes.exclusions(changes.EXCLUDED, [])
    assert exclusions.hides(b"tmp", b"jupyter-server-proxy-fkt2qkdo", b"tmp/jupyter-server-proxy-fkt2qkdo")
