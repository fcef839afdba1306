"""Names that no folder can hold, or not on every system, are refused wherever files are listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from registry.errors import InvalidAdapterError, InvalidBaseError, RegistryError
from registry.folders.scan import scan, sort_names
from registry.schemas.transfer import FileClaim
from registry.transfer.publish_request import check_claims

LONG = "x" * 252 + "ü" * 2  # 254 characters, 256 bytes

BAD: list[tuple[Sequence[str], str]] = [
    (
        ["x", "x/y"],
        "'x' and 'x/y' can't be in one folder: the first is a file, but the second needs a folder of that name",
    ),
    (["X", "x/y"], "'X' and 'x/y' can't be in one folder"),
    (["notes.md", "Notes.md"], "differ only in upper and lower case"),
    (["docs/a.md", "Docs/b.md"], "differ only in upper and lower case"),
    (["docs/straße", "docs/STRASSE"], "differ only in upper and lower case"),
    (["caf\u00e9.md", "cafe\u0301.md"], "how letters are composed"),
    ([LONG], "more than 255 bytes"),
    ([f"{LONG}/a"], "more than 255 bytes"),
    (["con"], "name of a device"),
    (["docs/CON.txt"], "name of a device"),
    (["Aux.tar.gz"], "name of a device"),
    (["lpt1"], "name of a device"),
    (["com\u00b9.md"], "name of a device"),
    (["nul /a"], "ends with a dot or a blank"),
    (["docs./a"], "ends with a dot or a blank"),
    (["a "], "ends with a dot or a blank"),
    (["a?b"], "none of"),
    (["a\x07"], "none of"),
]
GOOD = ["console", "com10", "lpt", "auxiliary/con-text", "a b.c", "ä", ("y" * 200 + "/") * 2 + "z", "Ö/ö"]


def in_folder(names: Sequence[str], error: type[RegistryError], tmp_path: Path) -> object:
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return scan(tmp_path, error)


def of_a_hub(names: Sequence[str], error: type[RegistryError], tmp_path: Path) -> object:
    return sort_names(names, error)


def claimed(names: Sequence[str], error: type[RegistryError], tmp_path: Path) -> object:
    return check_claims([FileClaim(path=name, size=1, digest="sha256:" + "0" * 64) for name in names], error)


LISTINGS = pytest.mark.parametrize("listing", [in_folder, of_a_hub, claimed])
Listing = Callable[[Sequence[str], type[RegistryError], Path], object]


def _folder_can_hold(names: Sequence[str]) -> bool:
    """Whether this system's folders hold it, so that one can be listed."""
    return LONG not in names[0] and names != ["x", "x/y"]


CASES = [
    pytest.param(listing, names, match, id=f"{listing.__name__}-{number}")
    for listing in (in_folder, of_a_hub, claimed)
    for number, (names, match) in enumerate(BAD)
    if listing is not in_folder or _folder_can_hold(names)
]


@pytest.mark.parametrize("error", [InvalidAdapterError, InvalidBaseError])
@pytest.mark.parametrize(("listing", "names", "match"), CASES)
def test_a_name_that_no_folder_can_hold_is_refused(
    listing: Listing, names: Sequence[str], match: str, error: type[RegistryError], tmp_path: Path
) -> None:
    with pytest.raises(error, match=match) as refused:
        listing(names, error, tmp_path)
    assert refused.value.code == "bad_config"
    assert len(str(refused.value)) < 400


@LISTINGS
def test_names_that_look_like_it_are_taken(listing: Listing, tmp_path: Path) -> None:
    listing(GOOD, InvalidAdapterError, tmp_path)


def test_what_is_left_out_may_have_any_name(tmp_path: Path) -> None:
    for name in ("con.bin", "CON.BIN", "checkpoint-1 /a", "aux/adapter_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = scan(tmp_path, InvalidAdapterError)
    assert found.files == ()
    assert {one.path: one.reason for one in found.left_out} == {
        "con.bin": "pickle",
        "CON.BIN": "pickle",
        "checkpoint-1 ": "trainer checkpoint",
        "aux": "another adapter",
    }


@LISTINGS
def test_a_name_that_would_take_the_receipts_place(listing: Listing, tmp_path: Path) -> None:
    """Where upper and lower case are one, it is the receipt."""
    if listing is claimed:
        with pytest.raises(InvalidAdapterError, match="receipt of a fetch"):
            listing(["Registry-Receipt.json"], InvalidAdapterError, tmp_path)
    else:
        assert "receipt of a fetch" in str(listing(["Registry-Receipt.json"], InvalidAdapterError, tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        ["adapter_config.json", "a/checkpoint-1/adapter_config.json", "a/notes.md", "b/checkpoint-2/x"],
        ["a/b/adapter_config.json", "a/checkpoint-1/adapter_config.json", "a/x"],
        [".git/adapter_config.json", "c/.x/adapter_config.json", "c/y", "d/__pycache__/adapter_config.json"],
        ["checkpoint-1/adapter_config.json", "e/f/checkpoint-2/adapter_config.json", "e/z", "e/f/z"],
    ],
)
def test_a_hub_is_listed_as_the_same_folder_is(names: list[str], tmp_path: Path) -> None:
    here, there = in_folder(names, InvalidAdapterError, tmp_path), sort_names(names, InvalidAdapterError)
    assert ([file.path for file in here.files], list(here.left_out)) == there  # type: ignore[attr-defined]
