"""How weights of links are written, and which link each is of; without a registry, and without torch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import UsageError
from registry.reference import Reference
from registry.schemas import Options
from registry.schemas.weights import (
    LEAST,
    MOST,
    NamedLink,
    as_read,
    split_weight,
    text_of,
    weights_by_digest,
    weights_text,
)

LINKS = [
    NamedLink("sdxl/style@3", "sha256:" + "1a" * 32),
    NamedLink("sdxl/style/char@12", "sha256:" + "2b" * 32),
    NamedLink("sdxl/style/char/style@1", "sha256:" + "3c" * 32),
]
SIZED = st.floats(LEAST, MOST) | st.floats(-MOST, -LEAST) | st.just(0.0)


def test_a_weight_is_split_from_a_revision_only() -> None:
    assert split_weight("sdxl/style@3:0.8") == ("sdxl/style@3", "0.8")
    assert split_weight("sdxl/style@prod:-1") == ("sdxl/style@prod", "-1.0")
    assert split_weight("sdxl/style@sha256:12345678:.5") == ("sdxl/style@sha256:12345678", "0.5")
    for whole in ("sdxl/style", "sdxl/style@3", "sdxl/style@sha256:12345678", "sdxl/style:3", "sdxl", "sdxl/s@3:x"):
        assert split_weight(whole) == (whole, None)
    assert str(Reference.parse("sdxl/style@sha256:12345678")) == "sdxl/style@sha256:12345678"


@given(SIZED)
def test_a_weight_travels_without_loss(weight: float) -> None:
    ref, options = Options().of(f"sdxl/style@3:{weight!r}")
    assert ref == "sdxl/style@3"
    found = weights_by_digest(options.weights, LINKS[:1], ref)
    assert found == ({} if weight == 1 else {LINKS[0].digest: weight})
    assert weights_by_digest(text_of(found), LINKS, ref) == found
    assert weights_by_digest(weights_text({"sdxl/style": weight}), LINKS[:1], ref) == found
    assert float(as_read(weight)) == weight


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("char", 1),
        ("style/char", 1),
        ("sdxl/style/char", 1),
        ("char@12", 1),
        ("sdxl/style", 0),
        ("style@3", 0),
        ("style@1", 2),
        ("char/style", 2),
        ("sha256:3c3c3c3c", 2),
        (LINKS[1].digest, 1),
    ],
)
def test_the_end_of_a_path_names_a_link(name: str, at: int) -> None:
    assert weights_by_digest(f"{name}=0.5", LINKS, "sdxl/style/char/style@1") == {LINKS[at].digest: 0.5}


@pytest.mark.parametrize("name", ["har", "tyle/char", "char@1", "char@", "12", "sdxl", "sha256:9", "@12", "char@prod"])
def test_anything_else_names_none(name: str) -> None:
    with pytest.raises(UsageError, match="has no link"):
        weights_by_digest(f"{name}=0.5", LINKS, "x")


def test_a_name_of_two_links_is_asked_about() -> None:
    with pytest.raises(UsageError, match="several links of x: write the path of one, sdxl/style@3, sdxl/style/char/st"):
        weights_by_digest("style=0.5", LINKS, "x")


@pytest.mark.parametrize(
    "text",
    ["char=", "=1", "char", "char=1=2", "char=0x1", "char=1_0", "char=1,char=2", "1,2", ",", "char=1,", "char=\u0661"],
)
def test_what_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        weights_by_digest(text, LINKS, "x")


def test_minus_0_is_0() -> None:
    (found,) = weights_by_digest("char=-0.0", LINKS, "x").values()
    assert str(found) == "0.0"


@pytest.mark.parametrize(
    "weights", [float("nan"), float("inf"), 1e10, 1e-10, True, {"char": "1"}, {"a,b": 1}, {3: 1}, []]
)
def test_no_other_value_is_taken(weights: object) -> None:
    with pytest.raises(UsageError):
        weights_text(weights)  # type: ignore[arg-type]
