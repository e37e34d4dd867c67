"""What a pack holds, what it links, what it leaves out, and what it says."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from himalia import pack
from himalia._ignore import Ignore
from himalia.errors import PackError
from himalia.pack import Pack, Place, project


@pytest.fixture
def home(tmp_path: Path) -> Path:
    # Deep enough that nothing above it is taken for a project.
    home = tmp_path.resolve() / "home" / "jovyan"
    (home / "shared" / "vision").mkdir(parents=True)
    return home


@pytest.fixture
def workspace(home: Path) -> Place:
    return Place(home=home, workspace=True)


@pytest.fixture
def laptop(home: Path) -> Place:
    return Place(home=home, workspace=False)


def put(folder: Path, *names: str, size: int = 1) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            with open(path, "wb") as file:
                file.truncate(size)


def members(made: Pack) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(made.file) as tar:
        return {info.name: info for info in tar.getmembers()}


def links(made: Pack) -> dict[str, str]:
    return {name: info.linkname for name, info in members(made).items() if info.issym()}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


class TestWhichFolder:
    @pytest.mark.parametrize("marker", [".git/", "pyproject.toml", ".himaliaignore"])
    def test_the_nearest_folder_above_with_a_marker_is_the_project(
        self, home: Path, workspace: Place, marker: str
    ) -> None:
        put(home / "work", marker, "pkg/deep/train.py", "pkg/other.py")
        with project(home / "work/pkg/deep/train.py", cwd=home, place=workspace) as made:
            assert made.folder == home / "work"
            assert {"pkg/deep/train.py", "pkg/other.py"} <= members(made).keys()

    def test_without_a_marker_it_is_the_scripts_own_folder(self, home: Path, workspace: Place) -> None:
        put(home / "work", "a/train.py", "b/other.py")
        with project(home / "work/a/train.py", cwd=home, place=workspace) as made:
            assert list(members(made)) == ["train.py"]

    def test_a_repository_in_home_itself_does_not_make_home_the_project(self, home: Path, workspace: Place) -> None:
        put(home, ".git/", "work/train.py")
        with project(home / "work/train.py", cwd=home, place=workspace) as made:
            assert made.folder == home / "work"

    def test_a_command_packs_the_current_folder_and_no_folder_above(self, home: Path, workspace: Place) -> None:
        put(home / "work", "pyproject.toml", "sub/run.sh")
        with project(cwd=home / "work/sub", place=workspace) as made:
            assert (made.folder, made.working_dir, made.source) == (home / "work/sub", str(home / "work/sub"), "")

    def test_folder_overrides_and_must_hold_the_script(self, home: Path, workspace: Place) -> None:
        put(home / "work", "a/train.py", "b/other.py")
        with project(home / "work/a/train.py", folder=home / "work", cwd=home, place=workspace) as made:
            assert set(made_files(made)) == {"a/train.py", "b/other.py"}
        with pytest.raises(PackError, match="is not in"):
            project(home / "work/a/train.py", folder=home / "work/b", cwd=home, place=workspace)

    def test_a_home_is_refused_as_the_folder_of_a_script_below_it(self, home: Path, workspace: Place) -> None:
        put(home, "work/train.py")
        with pytest.raises(PackError, match="more than a project"):
            project(home / "work/train.py", folder=home, cwd=home, place=workspace)

    def test_a_script_that_is_not_there_is_named(self, home: Path, workspace: Place) -> None:
        with pytest.raises(PackError, match=r"no file train\.py"):
            project("train.py", cwd=home, place=workspace)


def made_files(made: Pack) -> list[str]:
    return [name for name, info in members(made).items() if info.isreg()]


class TestWhereItAppears:
    def test_in_a_workspace_at_its_own_path_and_the_person_stays_where_they_are(
        self, home: Path, workspace: Place
    ) -> None:
        put(home, "shared/vision/digits/train.py")
        with project("shared/vision/digits/train.py", cwd=home, place=workspace) as made:
            assert made.path == str(home / "shared/vision/digits")
            assert made.working_dir == str(home)
            assert made.source == "shared/vision/digits/train.py"

    def test_a_notebook_works_in_its_own_folder(self, home: Path, workspace: Place) -> None:
        put(home, "work/.himaliaignore", "work/nb/a.ipynb")
        with project("work/nb/a.ipynb", notebook=True, cwd=home, place=workspace) as made:
            assert (made.working_dir, made.source) == (str(home / "work/nb"), "a.ipynb")

    def test_from_a_laptop_below_job_with_the_same_shape(self, home: Path, laptop: Place) -> None:
        put(home, "my work/.himaliaignore", "my work/src/train.py")
        with project("train.py", cwd=home / "my work/src", place=laptop) as made:
            assert (made.path, made.working_dir, made.source) == ("/job/my_work", "/job/my_work/src", "train.py")

    def test_a_folder_of_a_workspace_outside_of_home_appears_below_job_too(
        self, home: Path, tmp_path: Path, workspace: Place
    ) -> None:
        put(tmp_path, "opt/tool/train.py")
        with project("train.py", cwd=tmp_path / "opt/tool", place=workspace) as made:
            assert (made.path, made.working_dir) == ("/job/tool", "/job/tool")

    def test_from_a_laptop_and_another_folder_it_works_in_the_projects(self, home: Path, laptop: Place) -> None:
        put(home, "work/.himaliaignore", "work/src/train.py", "elsewhere/x")
        with project(home / "work/src/train.py", cwd=home / "elsewhere", place=laptop) as made:
            assert (made.working_dir, made.source) == ("/job/work", "src/train.py")

    def test_a_script_outside_the_working_directory_has_an_absolute_path(self, home: Path, workspace: Place) -> None:
        put(home, "a/train.py", "b/x")
        with project("../a/train.py", cwd=home / "b", place=workspace) as made:
            assert (made.working_dir, made.source) == (str(home / "b"), str(home / "a/train.py"))

    def test_a_folder_reached_through_a_link_is_the_folder_it_leads_to(self, home: Path, workspace: Place) -> None:
        put(home, "shared/vision/digits/train.py")
        (home / "digits").symlink_to(home / "shared/vision/digits")
        with project("digits/train.py", cwd=home, place=workspace) as made:
            assert made.path == str(home / "shared/vision/digits")


class TestWhatStaysOut:
    def test_what_is_made_from_other_files_and_hidden_files_stay_out(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(
            work,
            "train.py",
            "__pycache__/x.pyc",
            "node_modules/x.js",
            ".env",
            ".ipynb_checkpoints/a.ipynb",
            "env/pyvenv.cfg",
            "env/bin/python",
            "mamba/conda-meta/x",
        )
        put(work, "pkg.egg-info/PKG-INFO", "results/")
        with project(work / "train.py", cwd=work, place=workspace) as made:
            # An editable install is found by its egg-info, and a program may count on an empty folder.
            assert set(members(made)) == {"train.py", "pkg.egg-info", "pkg.egg-info/PKG-INFO", "results"}

    def test_dotfiles_that_git_tracks_go_along(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", ".streamlit/config.toml", ".env", "sub/.flake8")
        git(work, "init")
        git(work, "add", "train.py", ".streamlit", "sub/.flake8")
        git(work, "commit", "-m", "first")
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert set(made_files(made)) == {"train.py", ".streamlit/config.toml", "sub/.flake8"}

    def test_himaliaignore_and_exclude_say_what_else(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", "raw/a.csv", "notes.txt", "keep.txt", "sub/raw/b.csv")
        (work / ".himaliaignore").write_text("# comment\n*.txt\n!keep.txt\n/raw/\n")
        with project(work / "train.py", exclude=["sub"], cwd=work, place=workspace) as made:
            assert set(members(made)) == {"train.py", "keep.txt"}

    def test_excluding_the_script_itself_is_refused(self, home: Path, workspace: Place) -> None:
        put(home / "work", "train.py", "a.txt")
        with pytest.raises(PackError, match="left out by a pattern"):
            project(home / "work/train.py", exclude=["*.py"], cwd=home, place=workspace)

    def test_sockets_and_pipes_are_passed_over(self, home: Path, workspace: Place) -> None:
        put(home / "work", "train.py")
        os.mkfifo(home / "work/pipe")
        with project(home / "work/train.py", cwd=home, place=workspace) as made:
            assert set(members(made)) == {"train.py"}


@pytest.mark.parametrize(
    ("pattern", "out", "kept"),
    [
        ("*.csv", ["a.csv", "deep/er/a.csv"], ["a.csv.gz"]),
        ("/a", ["a"], ["b/a"]),
        ("a/b", ["a/b"], ["x/a/b"]),
        ("**/b", ["b", "x/y/b"], ["xb"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["ab"]),
        ("a/**", ["a/x/y"], ["a"]),
        ("f?.py", ["f1.py"], ["f12.py", "f/.py"]),
        ("[!a]x", ["bx"], ["ax"]),
        ("[a-c]x", ["bx"], ["dx"]),
        (r"\#x", ["#x"], ["x"]),
        ("#x", [], ["#x"]),
        ("", [], ["", "x"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
    ],
)
def test_patterns_mean_what_they_mean_in_gitignore(pattern: str, out: list[str], kept: list[str]) -> None:
    ignore = Ignore([pattern])
    assert [path for path in out if not ignore(path, False)] == []
    assert [path for path in kept if ignore(path, False)] == []


class TestLimits:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pack, "FILE_LIMIT", 1000)
        monkeypatch.setattr(pack, "TOTAL_LIMIT", 5000)
        monkeypatch.setattr(pack, "COUNT_LIMIT", 20)

    def test_a_folder_of_data_is_linked_whole(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", "data/small.csv", "data/sub/x")
        put(work, "data/sub/big.bin", size=5000)
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert links(made) == {"data": f"/run/himalia/live/home/{(work / 'data').relative_to(home)}"}
            assert set(members(made)) == {"train.py", "data"}
            assert made.summary() == "packed 1 file, 1 B; linked data/ (5 kB, stays live)"

    def test_a_large_file_beside_programs_is_linked_alone_so_that_the_programs_stay_frozen(
        self, home: Path, workspace: Place
    ) -> None:
        work = home / "work"
        put(work, "train.py", "pkg/model.py")
        put(work, "pkg/weights.bin", size=5000)
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert links(made) == {"pkg/weights.bin": "/run/himalia/live/home/work/pkg/weights.bin"}
            assert "pkg/model.py" in members(made)
            assert made.summary().endswith("linked pkg/weights.bin (5 kB, stays live)")

    def test_in_a_groups_folder_links_lead_to_the_groups_volume(self, home: Path, workspace: Place) -> None:
        work = home / "shared/vision/digits"
        put(work, "train.py")
        put(work, "data/big.bin", size=5000)
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert links(made) == {"data": "/run/himalia/live/shared/vision/digits/data"}

    def test_many_small_files_are_linked_by_the_largest_folder_first_until_the_rest_fits(
        self, home: Path, workspace: Place
    ) -> None:
        work = home / "work"
        put(work, "train.py", *(f"few/{i}" for i in range(10)), *(f"many/{i}" for i in range(15)))
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert set(links(made)) == {"many"}
            assert made.files == 11

    def test_too_much_in_all_links_the_largest_folder(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", size=900)
        put(work, *(f"a/{i}" for i in range(3)), *(f"b/{i}" for i in range(4)), size=900)
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert set(links(made)) == {"b"}

    def test_a_folder_of_programs_is_linked_only_when_nothing_else_is_left(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", *(f"lib/{i}.py" for i in range(30)))
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert set(links(made)) == {"lib"}

    def test_a_folder_over_the_limits_with_nothing_to_link_is_refused(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, *(f"{i}.py" for i in range(30)))
        with pytest.raises(PackError, match="30 files"):
            project(work / "1.py", cwd=work, place=workspace)

    def test_from_a_laptop_nothing_is_linked_and_what_is_too_large_is_named(self, home: Path, laptop: Place) -> None:
        work = home / "work"
        put(work, "train.py")
        put(work, "data/big.bin", "data/bigger.bin", size=5000)
        with pytest.raises(PackError, match=r"data/ \(10 kB, 2 files\).*--exclude.*--upload"):
            project(work / "train.py", cwd=work, place=laptop)
        with project(work / "train.py", exclude=["data"], cwd=work, place=laptop) as made:
            assert set(members(made)) == {"train.py"}
        with project(work / "train.py", upload=True, cwd=work, place=laptop) as made:
            assert members(made)["data/big.bin"].size == 5000

    def test_the_program_itself_is_never_inside_a_link(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "pyproject.toml", "jobs/train")
        put(work, "jobs/big.bin", size=5000)
        with project(work / "jobs/train", cwd=work, place=workspace) as made:
            assert set(links(made)) == {"jobs/big.bin"}


class TestCrowdedFolders:
    def test_in_home_itself_programs_are_packed_and_everything_else_stays_live(
        self, home: Path, workspace: Place
    ) -> None:
        put(home, "a.ipynb", "b.py", "data/x.csv", "notes.txt", ".config/x", ".secret.py")
        with project("a.ipynb", notebook=True, cwd=home, place=workspace) as made:
            assert set(made_files(made)) == {"a.ipynb", "b.py"}
            # Group folders are mounted below home in the job as well: a link in their place would hide them.
            assert links(made) == {
                name: f"/run/himalia/live/home/{name}" for name in ("data", "notes.txt", ".config", ".secret.py")
            }
            assert made.summary() == "packed 2 files, 2 B; linked 4 other entries (stay live)"
            assert made.notes[0].startswith(
                "Your home is no project folder: a.ipynb and the *.py and *.ipynb files beside it are packed, everything else there stays live."
            )

    def test_in_a_groups_folder_itself_likewise(self, home: Path, workspace: Place) -> None:
        group = home / "shared/vision"
        put(group, "train.py", "digits/other.py")
        with project("train.py", cwd=group, place=workspace) as made:
            assert made_files(made) == ["train.py"]
            assert links(made) == {"digits": "/run/himalia/live/shared/vision/digits"}
            assert made.notes[0].startswith("A group's folder is no project folder")

    def test_on_a_laptop_nothing_else_of_home_goes_along(self, home: Path, laptop: Place) -> None:
        put(home, "a.py", "b.py", "private.txt", "folder/x")
        with project("a.py", cwd=home, place=laptop) as made:
            assert set(members(made)) == {"a.py", "b.py"}
            assert "nothing else of it goes along" in made.notes[0]


class TestSymbolicLinks:
    def test_links_inside_stay_relative(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", "data/v1/x", "sub/")
        (work / "data/latest").symlink_to("v1")
        (work / "sub/absolute").symlink_to(work / "data/v1")
        (work / "detour").symlink_to("../work/data")
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert links(made) == {"data/latest": "v1", "sub/absolute": "../data/v1", "detour": "data"}

    def test_links_that_lead_out_become_live_links(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py")
        put(home, "datasets/x", "shared/vision/y")
        (work / "own").symlink_to("../datasets")
        (work / "group").symlink_to(home / "shared/vision")
        (home / "hop").symlink_to(home / "shared/vision/y")
        (work / "twice").symlink_to(home / "hop")
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert links(made) == {
                "own": "/run/himalia/live/home/datasets",
                "group": "/run/himalia/live/shared/vision",
                "twice": "/run/himalia/live/shared/vision/y",
            }

    def test_a_link_to_what_a_job_finds_in_its_image_is_left_out_with_a_sentence(
        self, home: Path, workspace: Place
    ) -> None:
        put(home / "work", "train.py")
        (home / "work/tool").symlink_to("/usr/bin/env")
        with project(home / "work/train.py", cwd=home, place=workspace) as made:
            assert set(members(made)) == {"train.py"}
            assert "Use that path itself" in made.notes[0]

    def test_on_a_laptop_a_link_that_leads_out_is_refused_and_a_dangling_one_left_out(
        self, home: Path, laptop: Place
    ) -> None:
        put(home / "work", "train.py")
        (home / "work/dangling").symlink_to("/nowhere/at/all")
        with project(home / "work/train.py", cwd=home, place=laptop) as made:
            assert set(members(made)) == {"train.py"}
        (home / "work/out").symlink_to(home / "shared")
        with pytest.raises(PackError, match="leads out of the folder"):
            project(home / "work/train.py", cwd=home, place=laptop)

    def test_a_script_that_is_a_link_runs_in_the_folder_where_the_link_lies(self, home: Path, workspace: Place) -> None:
        put(home, "common/train.py", "work/x")
        (home / "work/train.py").symlink_to("../common/train.py")
        with project("train.py", cwd=home / "work", place=workspace) as made:
            assert made.folder == home / "work"
            assert links(made) == {"train.py": "/run/himalia/live/home/common/train.py"}


class TestTheBytes:
    def test_the_same_folder_gives_the_same_digest_and_a_changed_one_another(
        self, home: Path, workspace: Place
    ) -> None:
        work = home / "work"
        put(work, "b/z.py", "a.py", "b.txt", size=100)

        def digest() -> str:
            with project(work / "a.py", cwd=work, place=workspace) as made:
                return made.digest

        first = digest()
        assert digest() == first
        (work / "a.py").write_text("print(2)")
        assert digest() != first

    def test_entries_belong_to_the_images_user_keep_their_time_and_come_in_order(
        self, home: Path, workspace: Place
    ) -> None:
        work = home / "work"
        put(work, "run.py", "b/x.py", "b.py")
        os.utime(work / "run.py", (1_600_000_000, 1_600_000_000))
        (work / "run.py").chmod(0o755)
        with project(work / "run.py", cwd=work, place=workspace) as made:
            found = members(made)
            assert list(found) == ["b", "b/x.py", "b.py", "run.py"]
            assert {(info.uid, info.gid) for info in found.values()} == {(1000, 1000)}
            assert (found["run.py"].mtime, found["run.py"].mode) == (1_600_000_000, 0o755)

    def test_a_link_to_data_does_not_make_the_digest_depend_on_the_data(
        self, home: Path, workspace: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pack, "FILE_LIMIT", 1000)
        work = home / "work"
        put(work, "train.py")
        put(work, "data/big", size=5000)
        with project(work / "train.py", cwd=work, place=workspace) as first:
            pass
        put(work, "data/more", size=3000)
        with project(work / "train.py", cwd=work, place=workspace) as second:
            assert second.digest == first.digest

    def test_names_that_are_long_or_not_ascii_survive(self, home: Path, workspace: Place) -> None:
        long = "/".join(["folder" * 20] * 3) + "/データ.py"
        put(home / "work", "train.py", long)
        with project(home / "work/train.py", cwd=home, place=workspace) as made:
            assert long in members(made)

    def test_the_pack_goes_away_with_its_block(self, home: Path, workspace: Place) -> None:
        put(home / "work", "train.py")
        with project(home / "work/train.py", cwd=home, place=workspace) as made:
            assert made.file.stat().st_size == made.size_bytes
        assert not made.file.exists()

    def test_the_control_plane_takes_what_is_packed(self, home: Path, workspace: Place) -> None:
        from himalia_services.model import pack as received

        work = home / "work"
        put(work, "train.py", "data/v1/x", "pkg/__init__.py", ".hidden")
        put(home, "datasets/x")
        (work / "latest").symlink_to("data/v1")
        (work / "detour").symlink_to("../work/pkg")
        (work / "sets").symlink_to("../datasets")
        with project(work / "train.py", cwd=work, place=workspace) as made, open(made.file, "rb") as file:
            listing = received.inspect(file)
        assert set(listing.files) == {"train.py", "data/v1/x", "pkg/__init__.py"}
        assert listing.count == 6


class TestGit:
    def test_the_commit_goes_along_and_says_whether_files_were_edited(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py", "other.txt")
        git(work, "init")
        git(work, "add", ".")
        git(work, "commit", "-m", "first")
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=work, capture_output=True, text=True, check=True
        ).stdout.strip()

        def state() -> tuple[str, bool]:
            with project(work / "train.py", cwd=work, place=workspace) as made:
                return made.input.git_commit, made.input.git_dirty

        assert state() == (commit, False)
        put(work, "untracked.txt")
        assert state() == (commit, False)
        (work / "other.txt").write_text("edited")
        assert state() == (commit, True)
        git(work, "add", "other.txt")
        assert state() == (commit, True)
        git(work, "commit", "-m", "second")
        (work / "other.txt").unlink()
        assert state()[1] is True

    def test_no_program_that_a_repository_names_is_run(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "train.py")
        git(work, "init")
        git(work, "add", ".")
        git(work, "commit", "-m", "first")
        trap = work / "ran"
        (work / ".gitattributes").write_text("* filter=trap\n")
        for name in ("filter.trap.clean", "filter.trap.process", "core.fsmonitor"):
            git(work, "config", name, f"touch {trap}")
        (work / "train.py").write_text("edited")
        with project(work / "train.py", cwd=work, place=workspace) as made:
            assert made.git_dirty
        assert not trap.exists()

    def test_a_folder_below_a_repository_knows_its_commit(self, home: Path, workspace: Place) -> None:
        work = home / "work"
        put(work, "sub/pyproject.toml", "sub/train.py")
        git(work, "init")
        git(work, "add", ".")
        git(work, "commit", "-m", "first")
        with project(work / "sub/train.py", cwd=work, place=workspace) as made:
            assert made.git_commit
            assert made.folder == work / "sub"

    def test_a_broken_repository_is_no_repository(self, home: Path, workspace: Place) -> None:
        put(home / "work", "train.py", ".git/")
        with project(home / "work/train.py", cwd=home, place=workspace) as made:
            assert (made.git_commit, made.git_dirty) == ("", False)


def test_sizes_are_said_as_people_say_them() -> None:
    assert [pack.size(n) for n in (0, 999, 80_000, 1_500_000, 9_100_000_000, 250_000_000)] == [
        "0 B",
        "999 B",
        "80 kB",
        "1.5 MB",
        "9.1 GB",
        "250 MB",
    ]


def test_what_shrinks_while_it_is_packed_is_an_error_and_leaves_no_file(
    home: Path, workspace: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(home / "work", "train.py", size=100)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    class Shrinking(io.BytesIO):
        def fileno(self) -> int:
            return os.open(home / "work/train.py", os.O_RDONLY)

    monkeypatch.setattr(pack, "open", lambda *_: Shrinking(b"short"), raising=False)
    with pytest.raises(PackError, match="could not be packed"):
        project(home / "work/train.py", cwd=home, place=workspace)
    assert list(temporary.iterdir()) == []


def test_a_pattern_with_impossible_brackets_is_refused_by_name() -> None:
    with pytest.raises(PackError, match=r"\[z-a\]"):
        Ignore(["[z-a].txt"])
