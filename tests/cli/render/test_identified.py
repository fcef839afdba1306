"""What a folder is made of, on a terminal."""

from __future__ import annotations

from registry.cli.render.results import identified
from registry.cli.render.screen import lines_of
from registry.schemas.parents import Identified, MergedFrom

FOLDER = "./output/merged"
PROOF = "equal in 201 of 201 tensors, largest difference 1 units in the last place of bf16"
LINKS = ("llama/support@2", "llama/support/french@2")


def _text(found: Identified) -> str:
    lines = lines_of(identified(found), 100)
    return " ".join(" ".join("".join(span.text for span in line) for line in lines).split())


def test_a_model_is_a_path_and_its_links() -> None:
    for shows, words in ((True, "in the order that its bits show"), (False, "other orders give the same")):
        merged = MergedFrom(reference=LINKS[-1], links=LINKS, order_shows=shows, proof=PROOF)
        text = _text(Identified(folder=FOLDER, kind="model", searched=412, merged=(merged,)))
        assert text.startswith(f"{FOLDER} kind a model is {LINKS[-1]} {PROOF}")
        assert f"links {LINKS[0]}, then {LINKS[1]} ({words})" in text
        assert text.endswith("searched 412 revisions")


def test_what_nothing_explains_is_told_with_its_size() -> None:
    text = _text(Identified(folder=FOLDER, kind="model", searched=1, nearest="llama/a@1", distance=0.01234))
    assert "nearest llama/a@1 1.23 % of its norm is explained by no revision" in text
    text = _text(Identified(folder=FOLDER, kind="model", searched=1, unknown_order=LINKS[::-1]))
    assert f"merged {LINKS[1]}, then {LINKS[0]}: no path here has that order" in text


def test_an_adapter_is_what_it_fits_and_was_trained_on() -> None:
    merged = MergedFrom(reference="llama", links=(), order_shows=False, proof=PROOF)
    known = Identified(
        folder="./run", kind="adapter", searched=2, trained_on="./old/merged", bases=("llama", "l2"), merged=(merged,)
    )
    assert _text(known).startswith(f"./run kind an adapter names ./old/merged fits llama l2 trained on llama {PROOF}")
    gone = known.model_copy(update={"merged": (), "reason": "it is gone"})
    assert "not compared it is gone" in _text(gone)
