"""The parent by a folder of weights, where a path parts a head that is tied, and the files lack the bias it shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit import Base, read_model, write_adapter, write_model
from tests.kit.masked import BIAS, EMBEDDING, HEAD, QUERY, masked_base
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf


def _folder(shelf: Shelf, reference: str) -> Path:
    """The merged model as somebody else would have written it, without a receipt."""
    out, plain = shelf.folder(), shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    plain.mkdir()
    write_model(plain, read_model(out))
    (plain / "config.json").write_bytes((out / "config.json").read_bytes())
    return plain


def _on(folder: Path, adapter: Path) -> Path:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))
    return adapter


@pytest.mark.parametrize("parted", [HEAD, EMBEDDING])
def test_a_child_of_a_parted_head_is_compared(shelf: Shelf, parted: str) -> None:
    """Beside it lie one that leaves the tie alone, and one that changes the bias that both sides share."""
    base: Base = shelf.base("bert", masked_base)
    ours, path, seed = shelf.registry, f"bert/of-{len(parted)}", len(parted)
    ours.publish(write_adapter(shelf.folder(), base, [QUERY], r=2, seed=seed), path)
    ours.publish(write_recipe(shelf.folder(), base, Recipe((QUERY, parted), seed=seed)), path)
    folder = _folder(shelf, f"{path}@2")
    assert read_model(folder)[f"{HEAD}.bias"] == read_model(folder)[BIAS]
    child = _on(folder, write_adapter(shelf.folder(), base, [QUERY], r=2, seed=3))
    found = ours.publish(child, f"{path}/b").revision
    assert (found.parent, found.parent_known_by) == (f"{path}@2", "compared")
    assert [one.reference for one in ours.identify(folder).merged] == [f"{path}@2"]
    assert [one.reference for one in ours.identify(_folder(shelf, f"{path}@1")).merged] == [f"{path}@1"]


def test_a_copy_of_the_bias_is_compared_too(shelf: Shelf) -> None:
    """The copy that a model has of its own once the head is parted, with other numbers, is that of no revision."""
    base: Base = shelf.base("bert", masked_base)
    ours = shelf.registry
    ours.publish(write_recipe(shelf.folder(), base, Recipe((QUERY, HEAD), bias="all", seed=1)), "bert/a")
    folder = _folder(shelf, "bert/a")
    assert [one.reference for one in ours.identify(folder).merged] == ["bert/a@1"]
    tensors = read_model(folder)
    plain = read_model(base.folder)
    assert tensors[f"{HEAD}.bias"] != plain[BIAS]
    write_model(folder, {**tensors, f"{HEAD}.bias": plain[BIAS]})
    assert ours.identify(folder).merged == ()
