"""Names: what may be typed, and foreign text as folders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himalia_services.errors import Invalid
from himalia_services.model import names

#: Also lone surrogates, controls and what has a meaning to a file system.
ANY_TEXT = st.text(alphabet=st.characters(), max_size=300) | st.text(alphabet="./=-A2E\0 ", max_size=12)


@given(ANY_TEXT, ANY_TEXT)
def test_two_groups_never_share_a_folder(one: str, other: str) -> None:
    assert (names.folder(one) == names.folder(other)) == (one == other)


@given(st.text(alphabet="é/", min_size=70, max_size=200), st.text(alphabet="é/", min_size=70, max_size=200))
def test_two_long_groups_never_share_a_folder(one: str, other: str) -> None:
    assert (names.folder(one) == names.folder(other)) == (one == other)


@given(ANY_TEXT)
def test_a_group_folder_is_one_harmless_path_part(group: str) -> None:
    folder = names.folder(group)
    assert 0 < len(folder) <= 120
    assert set(folder) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-=")
    assert not folder.startswith(".")


@pytest.mark.parametrize("group", ["vision", "data-team_2", "R.and.D"])
def test_a_plain_group_name_is_its_folder(group: str) -> None:
    assert names.folder(group) == group


@given(ANY_TEXT)
def test_an_escaped_folder_says_what_it_was(group: str) -> None:
    folder = names.folder(group)
    if "==" in folder:
        return
    raw, rest = bytearray(), folder
    while rest:
        step = 3 if rest[0] == "=" else 1
        raw += bytes.fromhex(rest[1:3]) if step == 3 else rest[:1].encode()
        rest = rest[step:]
    assert raw.decode("utf-8", "surrogatepass") == group


@given(ANY_TEXT, ANY_TEXT)
def test_two_groups_never_share_a_volume(one: str, other: str) -> None:
    assert (names.group_volume("himalia-0badcafe", one) == names.group_volume("himalia-0badcafe", other)) == (
        one == other
    )


def test_names_on_the_engine_are_those_of_the_contract() -> None:
    assert names.container("himalia-0badcafe", "ws-0123456789ab") == "himalia-0badcafe-ws-0123456789ab"
    assert names.home_volume("himalia-0badcafe", "p-0123456789ab") == "himalia-0badcafe-home-p-0123456789ab"
    assert len(names.group_volume("himalia-0badcafe", "vision")) == len("himalia-0badcafe-group-") + 16
    assert names.boot_check("ver-0123456789ab") == "boot-0123456789ab"


@pytest.mark.parametrize("text", ["ada/vision", "ada/vision:3", "o'hara@example.org/a", "ada/a.b_c-d:12"])
def test_a_reference_reads_back_as_it_was_written(text: str) -> None:
    assert str(names.ref(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vision",
        "/vision",
        "ada/",
        "ada/Vision",
        "ada/vision:",
        "ada/vision:0",
        "ada/vision:-1",
        "ada/vision:x",
        "ada/a/b",
        "ada/vision:³",
    ],
)
def test_what_names_no_environment_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Invalid, match="as in ada/vision:3"):
        names.ref(text)


@pytest.mark.parametrize("name", ["a", "vision", "torch-2.4_cpu", "a" * 64, "0"])
def test_an_environment_may_be_called(name: str) -> None:
    assert names.environment_name(name) == name


@pytest.mark.parametrize("name", ["", "Vision", "-a", "a-", ".a", "a/b", "a b", "a" * 65, "é", "a\n"])
def test_an_environment_may_not_be_called(name: str) -> None:
    with pytest.raises(Invalid, match="small letters"):
        names.environment_name(name)


@pytest.mark.parametrize("name", ["a", "gpu", "my-box-2", "a" * 30])
def test_a_workspace_may_be_called(name: str) -> None:
    assert names.server_name(name) == name


@pytest.mark.parametrize("name", ["", "2a", "a--b", "a-", "-a", "A", "a_b", "a" * 31, "a\n"])
def test_a_workspace_may_not_be_called_what_the_hub_refuses(name: str) -> None:
    with pytest.raises(Invalid, match="single dashes"):
        names.server_name(name)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a b", "a\nb", "a\0", "x" * 256])
def test_what_is_no_persons_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="log in with"):
        names.person_name(name)


@given(st.integers(2, 200))
def test_an_id_is_never_given_twice(count: int) -> None:
    assert len({names.fresh("ws") for _ in range(count)}) == count
