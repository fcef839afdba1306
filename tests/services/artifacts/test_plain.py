"""DoRA as a plain LoRA: its error is what is claimed, and no LoRA of these ranks errs less.

Claims are judged by dense singular values in float64 (`tests.kit.spectra`) of what the independent reference makes of
the merged weights of the path, less those that it starts from.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.engines.checking import engine_check
from registry.errors import AccuracyError, InvalidAdapterError, UsageError
from registry.folders.receipts import read_receipt
from registry.schemas.form import EngineName
from registry.services.local import LocalRegistry
from registry.tensors.truncation import dense
from tests.kit.adapters import write_adapter
from tests.kit.bases import Base, llama_base
from tests.kit.floats import Array
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.spectra import Spectra, wrong_claims
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors
from tests.kit.variants import MAKERS, VARIANTS

PATHS = {
    "rows": ("llama", ("dora",)),
    "beside plain links": ("llama", ("plain", "dora", "patterns")),
    "twice": ("llama", ("dora of others", "dora", "rslora")),
    "embedding": ("llama", ("dora embedding", "plain")),
    "conv1d": ("gpt2", ("plain", "dora", "dora positions")),
    "convolutions": ("conv", ("some", "dora", "dora of some")),
}


class OfWeights(Spectra):
    """The change of the merged weight itself, however it comes about."""

    def _scales(self, name: str) -> Array:
        return np.ones((1, 1))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Shelf(tmp_path_factory.mktemp("plain"))
    yield made
    made.close()


def published(shelf: Shelf, name: str) -> tuple[Base, list[Path], list[str]]:
    kind, recipes = PATHS[name]
    base = shelf.base(kind, MAKERS[kind])
    drawn = [VARIANTS[kind][one] for one in recipes]
    path = write_recipes(shelf.folder(), base, [Recipe(**{**vars(one), "seed": n}) for n, one in enumerate(drawn, 1)])
    return base, path, shelf.publish(kind, path)


@pytest.mark.parametrize("name", PATHS)
def test_the_nearest_lora_errs_as_it_is_said_and_no_lora_of_its_ranks_errs_less(shelf: Shelf, name: str) -> None:
    base, path, references = published(shelf, name)
    every: list[dict[str, Any]] = [{"rank": 2, "max_error": 0.999}, {"max_error": 0.1}]
    for options in every:
        out = shelf.folder()
        fetched = shelf.registry.fetch(references[-1], out, plain=True, **options)
        assert fetched.truncation is not None
        assert fetched.truncation == read_receipt(out).truncation
        assert fetched.truncation.total.relative_frobenius <= options["max_error"]
        assert [one for one in fetched.notices if "nearest plain pairs" in one]
        assert wrong_claims(fetched.truncation.model_dump(), OfWeights(base, path), out) == []
        assert not any("magnitude" in one for one in read_tensors(out / "adapter_model.safetensors"))
        assert not json.loads((out / "adapter_config.json").read_text())["use_dora"]
        assert shelf.registry.verify(out).equal


def test_the_links_after_an_ancestor_go_on_its_merged_weights(shelf: Shelf) -> None:
    base, path, references = published(shelf, "twice")
    out = shelf.folder()
    fetched = shelf.registry.fetch(references[-1], out, plain=True, max_error=0.2, since=references[0])
    assert fetched.truncation is not None
    assert wrong_claims(fetched.truncation.model_dump(), OfWeights(base, path, 1), out) == []


def test_a_projection_errs_as_it_is_said(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    base, path, references = published(shelf, "beside plain links")
    monkeypatch.setattr(dense, "DECOMPOSED", 0)
    monkeypatch.setattr(dense, "SHARE", 1)
    monkeypatch.setattr(dense, "_OVERSAMPLED", 1)
    out = shelf.folder()
    asked: dict[str, Any] = {"plain": True, "rank": 2}
    with pytest.raises(AccuracyError, match=r"the error is (0\.\d+), .*; ask for --max-error \1 or more\.$") as refused:
        shelf.registry.fetch(references[-1], out, max_error=0.01, **asked)
    least = float(str(refused.value).split("--max-error ")[1].split()[0])
    found = shelf.registry.fetch(references[-1], out, max_error=least, **asked).truncation
    assert found is not None
    assert "0.01" not in found.enough_for
    spectra, claimed = OfWeights(base, path), 0.0
    for one in found.modules:
        left = math.hypot(*(float(np.linalg.norm(part)) for part in spectra.left_out(one.module, out)))
        assert abs(left - np.sqrt(one.discarded)) <= 2e-6 * np.sqrt(one.energy)
        spectral = max(float(np.linalg.norm(part, 2)) for part in spectra.left_out(one.module, out))
        whole = max(float(values[0]) for values in spectra.values(one.module))
        assert spectral <= one.relative_spectral * whole * (1 + 1e-5) + 1e-6 * whole
        claimed += one.discarded
    assert found.total.discarded == pytest.approx(claimed)


def test_the_error_of_16_bits_is_at_least_that_of_what_is_written(shelf: Shelf) -> None:
    base, path, references = published(shelf, "beside plain links")
    out = shelf.folder()
    found = shelf.registry.fetch(references[-1], out, plain=True, max_error=0.1, dtype="bf16").truncation
    assert found is not None
    spectra = OfWeights(base, path)
    names = [one.module for one in found.modules]
    left, whole = (
        np.sqrt(sum(float(np.sum(one**2)) for name in names for one in get(name)))
        for get in (lambda name: spectra.left_out(name, out), spectra.deltas)
    )
    assert found.total.relative_frobenius < left / whole <= (found.total.written or 0) <= 0.1


def near_one(folder: Path, base: Base, size: float = 0.003) -> Path:
    """An adapter with magnitudes near the norms of the weights, as training leaves them."""
    write_adapter(folder, base, ["q_proj", "v_proj", "down_proj"], r=3, size=0.3, seed=4)
    file = folder / "adapter_model.safetensors"
    tensors, random = dict(read_tensors(file)), np.random.default_rng(8)
    for key in [one for one in tensors if one.endswith("lora_B.weight")]:
        module = key.removesuffix(".lora_B.weight").removeprefix("base_model.model.")
        weight = base.reference([])[f"{module}.weight"].values
        drawn = 1 + size * random.standard_normal(weight.shape[0])
        magnitude = np.linalg.norm(weight, axis=1) * drawn
        tensors[f"base_model.model.{module}.lora_magnitude_vector"] = RawTensor.of(magnitude, "F32")
    write_tensors(file, tensors)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    return folder


@pytest.fixture
def path(local: LocalRegistry, tmp_path: Path) -> tuple[Base, Path]:
    base = llama_base(tmp_path / "base")
    local.add_base("tiny", base.folder)
    adapter = near_one(tmp_path / "dora", base)
    local.publish(adapter, "tiny/dora")
    return base, adapter


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_computes_with_it_what_it_computes_with_the_dora_within_the_error(
    path: tuple[Base, Path], local: LocalRegistry, tmp_path: Path
) -> None:
    base, adapter = path
    fetched = local.fetch("tiny/dora", tmp_path / "out", engine="vllm", max_error=0.3)
    assert fetched.truncation is not None
    with local.artifact("tiny/dora", plain=True, max_error=0.3) as artifact:
        assert engine_check("tiny/dora@1", artifact, "vllm", 16).loads
    ids = torch.arange(7)[None]

    def merged(folder: Path | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model: Any = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float64)
        if folder is not None:
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        with torch.no_grad():
            return dict(model.named_parameters()), model(ids).logits

    (start, plain, near), (before, wanted, found) = zip(
        *(merged(one) for one in (None, adapter, tmp_path / "out")), strict=True
    )
    apart, change = (
        torch.cat([(one[name] - two[name]).flatten() for name in start]).norm().item()
        for one, two in ((plain, near), (plain, start))
    )
    error = fetched.truncation.total.relative_frobenius
    assert 0 < error <= 0.3
    assert abs(apart / change - error) < 1e-5
    assert (found - wanted).norm() <= 3 * error * (wanted - before).norm()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_error_above_what_is_allowed_is_refused_with_the_rank_that_would_do(
    path: tuple[Base, Path], local: LocalRegistry, tmp_path: Path, engine: EngineName
) -> None:
    with pytest.raises(InvalidAdapterError, match=r"DoRA.*or allow an error with --max-error") as refused:
        local.fetch("tiny/dora", tmp_path / "out", engine=engine)
    assert refused.value.code == "engine_limits"
    said = r"With rank 1 at most .* the error is 0\.\d+, .* ask for --rank \d+ or"
    with pytest.raises(AccuracyError, match=said) as no:
        local.fetch("tiny/dora", tmp_path / "out", engine=engine, max_lora_rank=1, max_error=0.02)
    rank = int(str(no.value).split("--rank ")[1].split()[0])
    with local.artifact("tiny/dora", plain=True, rank=rank, max_error=0.02) as artifact:
        assert artifact.truncation is not None
        assert artifact.truncation.total.relative_frobenius <= 0.02
    with pytest.raises(AccuracyError):
        local.artifact("tiny/dora", plain=True, rank=rank - 1, max_error=0.02)
    assert not (tmp_path / "out").exists()


def test_heads_and_whole_modules_stay_refused_by_name(local: LocalRegistry, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base")
    local.add_base("tiny", base.folder)
    recipe = Recipe(("q_proj",), dora=True, replaced=("lm_head",))
    local.publish(write_recipes(tmp_path, base, [recipe])[0], "tiny/head")
    for engine in ("vllm", "sglang", "llama.cpp", "mlx"):
        with pytest.raises(InvalidAdapterError, match="replaces the whole module lm_head"):
            local.fetch("tiny/head", tmp_path / "out", engine=engine, max_error=0.9)


def test_llama_cpp_and_mlx_get_the_same_change(path: tuple[Base, Path], local: LocalRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    local.fetch("tiny/dora", folder, plain=True, max_error=0.1)
    wanted = read_tensors(folder / "adapter_model.safetensors")
    local.fetch("tiny/dora", tmp_path / "gguf", engine="llama.cpp", max_error=0.1)
    local.fetch("tiny/dora", tmp_path / "mlx", engine="mlx", max_error=0.1)
    read = {one.name: one.data for one in gguf.GGUFReader(tmp_path / "gguf" / "adapter.gguf").tensors}
    mlx = read_tensors(tmp_path / "mlx" / "adapters.safetensors")
    for layer in range(2):
        lead = f"model.layers.{layer}.mlp.down_proj"
        a, b = (wanted[f"base_model.model.{lead}.lora_{side}.weight"].values for side in "AB")
        delta = b @ a
        for one in (
            read[f"blk.{layer}.ffn_down.weight.lora_b"] @ read[f"blk.{layer}.ffn_down.weight.lora_a"],
            (mlx[f"{lead}.lora_a"].values @ mlx[f"{lead}.lora_b"].values).T,
        ):
            assert np.abs(one - delta).max() <= 1e-6 * np.abs(delta).max()


def test_an_error_has_to_be_allowed(path: tuple[Base, Path], local: LocalRegistry) -> None:
    with pytest.raises(UsageError, match="plain needs max_error"):
        local.artifact("tiny/dora", plain=True)


def test_a_path_without_dora_is_exact_whatever_error_is_allowed(
    path: tuple[Base, Path], local: LocalRegistry, tmp_path: Path
) -> None:
    local.publish(write_adapter(tmp_path / "plain", path[0], ["q_proj"], r=2), "tiny/plain")
    fetched = local.fetch("tiny/plain", tmp_path / "out", engine="vllm", max_error=0.9)
    assert fetched.truncation is None
    assert not read_receipt(tmp_path / "out").plan.plain
