"""What is said of a merged model's fidelity: in the answer, the receipt, the cache, the materialisation, and verify."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.folders.receipts import read_receipt, write_receipt
from registry.folders.scan import RECEIPT
from registry.schemas import Fidelity
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter, write_chain
from tests.kit.places import KINDS, Place, open_place

LARGE = {"a.weight": (400, 300), "b.weight": (24, 16)}


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry") as opened:
        fill(opened.registry, tmp_path)
        yield opened


@pytest.fixture
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalRegistry]:
    with open_place(request, tmp_path / "registry", kind="embedded") as opened:
        fill(opened.registry, tmp_path)
        yield opened.registry


def fill(registry: LocalRegistry, tmp_path: Path) -> None:
    """net/one@1 and net/one/two@1, with deltas that bf16 keeps for the most part."""
    base = plain_base(tmp_path / "base", LARGE, dtype="BF16")
    registry.add_base("net", base.folder)
    path = write_chain(tmp_path / "chain", base, 2, ["a", "b"], size=0.01)
    registry.publish(path[0], "net/one")
    registry.publish(path[1], "net/one/two", parent="net/one@1")


def sampled(fidelity: Fidelity | None) -> Fidelity:
    assert fidelity is not None
    assert fidelity.rows == "sample"
    assert [one.tensor for one in fidelity.tensors] == ["a.weight", "b.weight"]
    return fidelity


def full(fidelity: Fidelity | None) -> Fidelity:
    assert fidelity is not None
    assert fidelity.rows == "full"
    return fidelity


def test_the_receipt_has_what_the_answer_says_and_the_cache_what_the_receipt_says(
    local: LocalRegistry, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = local.fetch("net/one/two", out, kind="merged")
    there = sampled(first.fidelity)
    assert there.surviving_share is not None
    assert 0.9 < there.surviving_share < 1.1
    assert read_receipt(out).fidelity == there
    again = local.fetch("net/one/two", out, kind="merged")
    assert not again.fresh
    assert again.fidelity == there
    changed = there.model_copy(update={"relative_error": 0.25})
    (out / RECEIPT).write_bytes(write_receipt(read_receipt(out).model_copy(update={"fidelity": changed})))
    assert local.fetch("net/one/two", out, kind="merged").fidelity == changed


def test_the_figures_are_in_no_rendering(local: LocalRegistry, tmp_path: Path) -> None:
    one = local.fetch("net/one", tmp_path / "sample", kind="merged")
    other = local.fetch("net/one", tmp_path / "full", kind="merged", fidelity="full")
    assert (one.rendering, one.files) == (other.rendering, other.files)
    assert sampled(one.fidelity) != full(other.fidelity)


def test_a_folder_that_is_there_is_measured_on_all_rows_when_it_is_asked_for(
    local: LocalRegistry, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    local.fetch("net/one", out, kind="merged")
    again = local.fetch("net/one", out, kind="merged", fidelity="full")
    assert not again.fresh
    there = full(again.fidelity)
    assert there == full(local.fetch("net/one", tmp_path / "other", kind="merged", fidelity="full").fidelity)
    assert read_receipt(out).fidelity == there
    assert full(local.fetch("net/one", out, kind="merged").fidelity) == there  # a sample says less


def test_a_folder_of_a_version_that_did_not_measure(local: LocalRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    local.fetch("net/one", out, kind="merged")
    document = json.loads((out / RECEIPT).read_text())
    del document["fidelity"]
    (out / RECEIPT).write_text(json.dumps(document))
    assert local.fetch("net/one", out, kind="merged").fidelity is None
    full(local.fetch("net/one", out, kind="merged", fidelity="full").fidelity)


def test_receipts_without_figures_are_as_before(local: LocalRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert local.fetch("net/one", out, kind="lora").fidelity is None
    assert "fidelity" not in json.loads((out / RECEIPT).read_text())


def test_a_base_model_and_an_adapter_have_none(local: LocalRegistry, tmp_path: Path) -> None:
    assert local.fetch("net", tmp_path / "base-out", kind="merged").fidelity is None
    with pytest.raises(UsageError, match="--fidelity full is about merged models"):
        local.fetch("net/one", tmp_path / "lora", kind="lora", fidelity="full")
    with pytest.raises(UsageError, match="--fidelity full is about merged models"):
        local.materialise("net/one", kind="lora", fidelity="full")


def test_a_materialisation_keeps_what_was_measured(place: Place, tmp_path: Path) -> None:
    registry = place.registry
    made = registry.materialise("net/one", kind="merged").materialisation
    assert made.fidelity is not None
    fetched = sampled(registry.fetch("net/one", tmp_path / "kept", kind="merged").fidelity)
    assert made.fidelity.model_dump() == {name: getattr(fetched, name) for name in made.fidelity.model_dump()}
    (shown,) = registry.show("net/one").materialisations
    assert shown.fidelity == made.fidelity
    assert registry.materialisations()[0].fidelity == made.fidelity
    assert registry.materialise("net/one", kind="lora").materialisation.fidelity is None
    registry.drop_materialisation("net/one")
    assert sampled(registry.fetch("net/one", tmp_path / "made", kind="merged").fidelity) == fetched


def test_what_is_materialised_is_measured_on_all_rows_later(place: Place, tmp_path: Path) -> None:
    registry = place.registry
    registry.materialise("net/one", kind="merged")
    here = full(registry.fetch("net/one", tmp_path / "here", kind="merged", fidelity="full").fidelity)
    again = registry.materialise("net/one", kind="merged", fidelity="full")
    assert not again.created
    assert again.materialisation.fidelity is not None
    assert again.materialisation.fidelity.rows == "full"
    assert again.materialisation.fidelity.relative_error == here.relative_error
    assert full(registry.fetch("net/one", tmp_path / "kept", kind="merged").fidelity) == here
    at_once = registry.materialise("net/one/two", kind="merged", fidelity="full")
    assert at_once.created
    assert at_once.materialisation.fidelity is not None
    assert at_once.materialisation.fidelity.rows == "full"


def test_verify_measures_all_rows(local: LocalRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    local.fetch("net/one", out, kind="merged")
    found = local.verify(out)
    assert found.equal
    assert full(found.fidelity) == full(local.fetch("net/one", out, kind="merged", fidelity="full").fidelity)
    local.fetch("net/one", tmp_path / "lora", kind="lora")
    assert local.verify(tmp_path / "lora").fidelity is None


def test_a_delta_that_bf16_loses(local: LocalRegistry, tmp_path: Path) -> None:
    base = plain_base(tmp_path / "other", LARGE, dtype="BF16", seed=3)
    local.add_base("other", base.folder)
    local.publish(write_adapter(tmp_path / "tiny", base, ["a"], size=1e-4), "other/tiny")
    lost = sampled_one(local.fetch("other/tiny", kind="merged").fidelity)
    kept = sampled_one(local.fetch("other/tiny", kind="merged", dtype="fp32").fidelity)
    assert lost[0] > 0.5
    assert lost[1] > 0.9
    assert kept[0] < 1e-2
    assert kept[1] < 1e-2


def sampled_one(fidelity: Fidelity | None) -> tuple[float, float]:
    assert fidelity is not None
    assert fidelity.relative_error is not None
    assert fidelity.unchanged_share is not None
    return fidelity.relative_error, fidelity.unchanged_share
