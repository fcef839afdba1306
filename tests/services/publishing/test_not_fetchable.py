"""What could be published and not fetched: NaN in the base model, and factors that the base's dtype can't hold."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from registry.errors import InvalidAdapterError
from registry.services.local import LocalRegistry
from tests.kit import RawTensor, read_model, write_adapter, write_model
from tests.kit.bases import Base, plain_base
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf
from tests.kit.tensor_files import read_tensors, write_tensors

WEIGHTS = "adapter_model.safetensors"
SHAPES: dict[str, tuple[int, ...]] = {"emb.weight": (12, 6), "fc.weight": (8, 6)}


def _with_nan(shelf: Shelf, name: str, at: tuple[int, ...] = (7, 2), what: float = np.nan) -> Base:
    base = plain_base(shelf.folder(), SHAPES, dtype="BF16")
    tensors = read_model(base.folder)
    values = tensors["emb.weight"].values
    values[at] = what
    write_model(base.folder, tensors | {"emb.weight": RawTensor.of(values, "BF16")})
    told = shelf.registry.add_base(name, base.folder).base.notices
    assert any("'emb.weight' contains NaN or infinity, in row 7 of [12, 6]" in one for one in told)
    return base


@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
def test_a_base_tells_of_rows_that_are_not_finite_and_no_adapter_changes_them(shelf: Shelf, what: float) -> None:
    name = f"hole{what}".replace("-", "m")
    base = _with_nan(shelf, name, what=what)
    for module in ("emb", "fc"):
        adapter = write_adapter(shelf.folder(), base, [module], r=2)
        if module == "emb":
            with pytest.raises(InvalidAdapterError, match=r"'emb\.weight' of the base model .* in row 7") as refused:
                shelf.registry.publish(adapter, f"{name}/{module}")
            assert refused.value.code == "non_finite"
        else:
            shelf.registry.publish(adapter, f"{name}/{module}")
            shelf.registry.fetch(f"{name}/{module}", shelf.folder(), kind="merged")


def test_what_replaces_the_weight_is_taken_and_so_is_what_stands_on_that(shelf: Shelf) -> None:
    base = _with_nan(shelf, "replaced")
    whole = write_recipe(shelf.folder(), base, Recipe(("fc",), replaced=("emb",), seed=1))
    shelf.registry.publish(whole, "replaced/whole")
    child = write_adapter(shelf.folder(), base, ["emb"], r=2, seed=4)
    shelf.registry.publish(child, "replaced/whole/child", parent="replaced/whole@1", skip_parent_check=True)
    merged = shelf.merged("replaced/whole/child")
    assert np.isfinite(merged["emb.weight"].values).all()


def test_a_copy_of_the_base_tells_it_too(shelf: Shelf, tmp_path: Path) -> None:
    base = _with_nan(shelf, "copied")
    with closing(LocalRegistry.open(tmp_path / "other", create=True)) as other:
        shelf.registry.copy("copied", other)
        assert any("contains NaN" in one for one in other.bases()[0].notices)
        with pytest.raises(InvalidAdapterError, match="in row 7"):
            other.publish(write_adapter(shelf.folder(), base, ["emb"], r=2), "copied/a")


@pytest.mark.parametrize(
    ("dtype", "size", "helps"), [("F16", 4e5, "bf16 or fp32"), ("BF16", 1e42, ""), ("F32", 1e42, "")]
)
def test_a_product_that_the_bases_dtype_does_not_hold_is_refused(
    shelf: Shelf, dtype: str, size: float, helps: str
) -> None:
    name = f"large-{dtype}".lower()
    base = shelf.base(name, plain_base, shapes=SHAPES, dtype=dtype)
    adapter = write_adapter(shelf.folder(), base, ["fc"], r=2, fill="positive", alpha=size)
    with pytest.raises(InvalidAdapterError, match="'fc' add up to") as refused:
        shelf.registry.publish(adapter, f"{name}/a")
    assert refused.value.code == "overflow"
    assert ("Add the base model in" in str(refused.value)) is bool(helps)
    assert helps in str(refused.value)


def test_a_product_that_may_not_fit_is_told(shelf: Shelf) -> None:
    """By the norms of its factors it may be too large; it is not, as their rows and columns stand across."""
    base = shelf.base("across", plain_base, shapes=SHAPES, dtype="F16")
    recipe = Recipe(("fc",), r=2, alpha=2)
    adapter = write_recipe(shelf.folder(), base, recipe)
    tensors = read_tensors(adapter / WEIGHTS)
    a, b = np.zeros((2, 6)), np.zeros((8, 2))
    a[0, 0] = b[1, 1] = 1e4
    a[1, 0], b[0, 0] = 1.0, 1.0
    tensors = {name: RawTensor.of(a if "lora_A" in name else b, "F32") for name in tensors}
    write_tensors(adapter / WEIGHTS, tensors)
    told = shelf.registry.publish(adapter, "across/a").revision.notices
    assert any("may be more than the dtype holds" in one for one in told)
    shelf.registry.fetch("across/a", shelf.folder(), kind="merged")
