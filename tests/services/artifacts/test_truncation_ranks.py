"""Which ranks truncation chooses, what it says when they can't be had, and the adapter that comes out as a file."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import AccuracyError, RegistryError, UsageError
from registry.folders.receipts import read_receipt
from registry.schemas import Truncation
from registry.services.local import LocalRegistry
from tests.kit import Base, read_tensors
from tests.kit.peers import load_model, logits, no_complaints, peft_load, with_weights
from tests.kit.recipes import Recipe, module_of, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.spectra import Spectra, tail, wrong_claims
from tests.kit.variants import MAKERS, VARIANTS


@dataclasses.dataclass(frozen=True)
class Made:
    """A published path."""

    base: Base
    links: list[Path]
    reference: str


def made(shelf: Shelf, kind: str, *recipes: Recipe | str) -> Made:
    name = kind.replace(" ", "-").replace("_", "-")
    base = shelf.base(name, MAKERS[kind])
    drawn = [VARIANTS[kind][one] if isinstance(one, str) else one for one in recipes]
    seeded = [dataclasses.replace(one, seed=one.seed or number) for number, one in enumerate(drawn, 1)]
    links = write_recipes(shelf.folder(), base, seeded)
    return Made(base, links, shelf.path(name, links))


@pytest.fixture(scope="module")
def uneven(shelf: Shelf) -> Made:
    """Modules of three shapes whose deltas are of very different sizes."""
    lead = "model.layers.0"
    return made(
        shelf,
        "llama",
        Recipe((f"{lead}.self_attn.q_proj", f"{lead}.self_attn.k_proj", f"{lead}.mlp.down_proj"), r=2),
        Recipe((f"{lead}.self_attn.q_proj", f"{lead}.self_attn.k_proj"), r=2, scale=0.3),
        Recipe((f"{lead}.self_attn.k_proj", f"{lead}.mlp.down_proj"), r=2, scale=0.05),
    )


def fetch(shelf: Shelf, path: Made, **options: Any) -> tuple[Truncation, Path]:
    out = shelf.folder()
    fetched = shelf.registry.fetch(path.reference, out, **options)
    assert fetched.truncation is not None
    return fetched.truncation, out


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return found


def ranks_written(path: Made, folder: Path) -> dict[str, int]:
    """Rank of each pair, by its key; of experts that of each."""
    found = {}
    for key, tensor in read_tensors(folder / "adapter_model.safetensors").items():
        if key.endswith((".lora_A.weight", ".lora_embedding_A")):
            module = key.removeprefix("base_model.model.").rpartition(".lora_")[0].replace(".base_layer", "")
            registered = path.base.layout.experts.get(module)
            experts = path.base.layout.parameters[f"{module}.{registered[0]}"].shape[0] if registered else 1
            found[key] = tensor.values.shape[0] // experts
    return found


def furthest(path: Made, folder: Path) -> float:
    """The largest difference of a merged value between an adapter and the path."""
    expected, found = path.base.simulate(path.links).tensors, path.base.simulate([folder]).tensors
    return max(float(np.max(np.abs(found[name].values - one.values))) for name, one in expected.items())


# --- --rank ---


def test_a_cap_above_everything_keeps_the_function(shelf: Shelf, uneven: Made) -> None:
    report, out = fetch(shelf, uneven, rank=1000)
    assert report.total.discarded == report.total.relative_frobenius == 0
    assert furthest(uneven, out) < 1e-7
    ranks = {entry.module.rpartition(".")[2]: (entry.rank_before, entry.rank_after) for entry in report.modules}
    assert ranks == {"q_proj": (4, 4), "k_proj": (6, 6), "down_proj": (4, 4)}


@pytest.mark.parametrize("rank", [1, 3, 4, 5])
def test_a_cap_leaves_lower_ranks_alone(shelf: Shelf, uneven: Made, rank: int) -> None:
    report, out = fetch(shelf, uneven, rank=rank)
    for entry in report.modules:
        assert entry.rank_after == min(rank, entry.rank_before)
    assert max(ranks_written(uneven, out).values()) == rank


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ("plain", "rslora", "dora", "plain")),
        ("mixtral", ("fused", "each expert")),
        ("conv", ("plain", "some")),
    ],
)
def test_says_which_rank_would_have_been_enough(shelf: Shelf, kind: str, names: tuple[str, ...]) -> None:
    path = made(shelf, kind, *names)
    report, _ = fetch(shelf, path, rank=1)
    assert list(report.enough_for) == ["0.01", "0.05", "0.1"]
    spectra = Spectra(path.base, path.links)
    for error, enough in report.enough_for.items():
        reached, out = fetch(shelf, path, rank=enough)
        assert wrong_claims(reached.model_dump(), spectra, out) == []
        assert reached.total.relative_frobenius <= float(error)
        assert enough > 1
        assert fetch(shelf, path, rank=enough - 1)[0].total.relative_frobenius > float(error)


# --- --max-error ---


@pytest.mark.parametrize("error", [0.9, 0.5, 0.2, 0.1, 0.03, 0.01, 0.001])
def test_no_ranks_of_fewer_parameters_reach_the_error(shelf: Shelf, uneven: Made, error: float) -> None:
    report, _ = fetch(shelf, uneven, max_error=error)
    assert report.total.relative_frobenius <= error
    spectra = Spectra(uneven.base, uneven.links)
    names = [entry.module for entry in report.modules]
    values = {name: spectra.values(name) for name in names}
    costs = [sum(module_of(uneven.base, name).oriented) for name in names]
    whole = math.hypot(*(tail(values[name], 0) for name in names))
    fewest = min(
        sum(cost * rank for cost, rank in zip(costs, ranks, strict=True))
        for ranks in itertools.product(*(range(1, entry.rank_before + 1) for entry in report.modules))
        if math.hypot(*(tail(values[name], rank) for name, rank in zip(names, ranks, strict=True))) <= error * whole
    )
    assert report.total.parameters_after == fewest


def test_no_error_keeps_the_function(shelf: Shelf, uneven: Made) -> None:
    report, out = fetch(shelf, uneven, max_error=0)
    assert report.total.discarded == report.total.relative_frobenius == 0
    assert furthest(uneven, out) < 1e-7


def test_both_options_when_the_cap_reaches_the_error(shelf: Shelf, uneven: Made) -> None:
    (alone, _), (both, out) = fetch(shelf, uneven, rank=3), fetch(shelf, uneven, rank=3, max_error=0.3)
    assert alone.total.relative_frobenius <= both.total.relative_frobenius <= 0.3
    assert both.total.parameters_after < alone.total.parameters_after
    assert max(ranks_written(uneven, out).values()) <= 3
    assert (both.rank, both.max_error) == (3, 0.3)


@pytest.mark.parametrize(("rank", "error"), [(1, 0.05), (2, 0.0001), (3, 0.0), (1, 0.01)])
def test_unreachable_errors_say_what_can_be_reached(shelf: Shelf, uneven: Made, rank: int, error: float) -> None:
    out = shelf.folder()
    with pytest.raises(AccuracyError) as refused:
        shelf.registry.fetch(uneven.reference, out, rank=rank, max_error=error)
    assert not out.exists()
    assert list(out.parent.glob(f".{out.name}*")) == []
    with pytest.raises(AccuracyError), shelf.registry.artifact(uneven.reference, rank=rank, max_error=error):
        pass
    found = re.search(r"--rank (\d+) or more, or for --max-error (\S+) or more", str(refused.value))
    assert found is not None, refused.value
    enough, reachable = int(found[1]), float(found[2])
    assert fetch(shelf, uneven, rank=enough, max_error=error)[0].total.relative_frobenius <= error
    with pytest.raises(AccuracyError):
        fetch(shelf, uneven, rank=enough - 1, max_error=error)
    report, _ = fetch(shelf, uneven, rank=rank, max_error=reachable)
    assert report.total.relative_frobenius <= reachable <= 1.01 * report.total.relative_frobenius


@pytest.mark.parametrize("rank", [3, 5, None])
def test_errors_that_rounding_makes_unreachable(shelf: Shelf, uneven: Made, rank: int | None) -> None:
    """Bounds between the error of the cap and that of its rounded factors: the advice must not lead in circles."""
    exact, _ = fetch(shelf, uneven, rank=rank or 6, dtype="bf16")
    written = exact.total.written
    assert written is not None
    between = (exact.total.relative_frobenius + written) / 2
    out = shelf.folder()
    with pytest.raises(AccuracyError, match=f"{between:g}") as refused:
        shelf.registry.fetch(uneven.reference, out, rank=rank, max_error=between, dtype="bf16")
    assert not out.exists()
    found = re.search(r"--dtype fp32, or ask for --max-error (\S+) or more", str(refused.value))
    assert found is not None, refused.value
    assert fetch(shelf, uneven, rank=rank, max_error=between, dtype="fp32")[0].total.relative_frobenius <= between
    followed, _ = fetch(shelf, uneven, rank=rank, max_error=float(found[1]), dtype="bf16")
    assert followed.total.written is not None
    assert followed.total.written <= float(found[1])
    assert fetch(shelf, uneven, rank=rank, max_error=written, dtype="bf16")[0].total.written == pytest.approx(written)


def test_the_pairs_of_an_attention_share_the_rank_that_they_are_written_with(shelf: Shelf) -> None:
    path = made(shelf, "attention", "plain", "ranks", "rslora")
    for error in (0.4, 0.2, 0.1):
        report, out = fetch(shelf, path, max_error=error)
        kept = {entry.module: entry.rank_after for entry in report.modules}
        for number in range(2):
            assert kept[f"blocks.{number}.attn"] == kept[f"blocks.{number}.attn.out_proj"]
        assert wrong_claims(report.model_dump(), Spectra(path.base, path.links), out) == []


# --- --uniform ---


@pytest.mark.long_but(
    "llama-names0-options0",
    "llama-names1-options1",
    "llama-names1-options2",
    "gpt2-options0",
    "conv-options1",
    "mixtral-options2",
    "declared-options0",
    "attention-options1",
)
@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"max_error": 0.3}])
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ("rslora", "patterns", "one layer")),
        ("llama", ("dora of others", "plain")),
        ("gpt2", ("plain", "positions")),
        ("conv", ("plain", "some", "lora bias")),
        ("attention", ("ranks", "plain")),
        ("mixtral", ("patterns", "one of each", "fused")),
        ("declared", ("inner experts", "bias")),
    ],
)
def test_uniform_has_one_rank_and_the_same_function(
    shelf: Shelf, kind: str, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    path = made(shelf, kind, *names)
    plain, uniform = shelf.folder(), shelf.folder()
    first = shelf.registry.fetch(path.reference, plain, **options)
    second = shelf.registry.fetch(path.reference, uniform, uniform=True, **options)
    assert first.truncation == second.truncation
    assert first.rendering != second.rendering
    config, ranks = config_of(uniform), ranks_written(path, uniform)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert set(ranks.values()) == {config["r"]} == {config["lora_alpha"]}
    assert config["r"] == max(ranks_written(path, plain).values())
    one, other = (path.base.simulate([folder]).tensors for folder in (plain, uniform))
    assert one.keys() == other.keys()
    assert max(float(np.max(np.abs(one[name].values - other[name].values))) for name in one) < 1e-12
    assert shelf.registry.verify(uniform).equal


# --- the adapter as a file ---


@pytest.mark.parametrize(
    ("kind", "names"), [("llama", ("plain", "rslora", "dora")), ("mixtral", ("fused", "up only", "attention"))]
)
def test_patterns_say_every_rank(shelf: Shelf, kind: str, names: tuple[str, ...]) -> None:
    path = made(shelf, kind, *[name for name in names if kind == "llama" or name != "attention"])
    report, out = fetch(shelf, path, max_error=0.2)
    config = config_of(out)
    kept = {entry.module: entry.rank_after for entry in report.modules}
    assert len(set(kept.values())) > 1
    assert config["r"] == config["lora_alpha"] == max(kept.values())
    expected = {f"^{re.escape(module)}": rank for module, rank in kept.items() if rank != config["r"]}
    assert config["rank_pattern"] == config["alpha_pattern"] == expected
    assert config["use_rslora"] is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names", "options"),
    [
        ("llama", ("plain", "rslora", "plain"), {"max_error": 0.3}),
        ("llama", ("plain", "dora", "patterns"), {"rank": 2}),
        ("gpt2", ("plain", "dora", "positions"), {"max_error": 0.2}),
        ("mixtral", ("fused", "up only"), {"rank": 2}),
        ("mixtral", ("fused", "up only"), {"max_error": 0.2, "uniform": True}),
    ],
)
def test_peft_loads_it_as_the_reference_does(
    shelf: Shelf, kind: str, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    path = made(shelf, kind, *names)
    _, out = fetch(shelf, path, **options)
    with no_complaints():
        loaded = peft_load(path.base.folder, [out])
    views = path.base.simulate([out]).state.views
    expected = with_weights(load_model(path.base.folder), {name: view.values for name, view in views.items()})
    assert np.allclose(logits(loaded).numpy(), logits(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_the_receipt_has_the_ranks(shelf: Shelf, uneven: Made) -> None:
    report, out = fetch(shelf, uneven, max_error=0.2)
    receipt = read_receipt(out)
    assert receipt.plan.ranks == {entry.module: entry.rank_after for entry in report.modules}
    assert (receipt.options.rank, receipt.options.max_error, receipt.options.uniform) == (None, 0.2, False)
    checked = shelf.registry.verify(out)
    assert (checked.equal, checked.exact) == (True, True)


@pytest.mark.long_but("llama-options0", "llama-options1", "mixtral-options2")
@pytest.mark.parametrize("options", [{"rank": 2}, {"max_error": 0.1}, {"rank": 2, "uniform": True, "dtype": "bf16"}])
@pytest.mark.parametrize(("kind", "names"), [("llama", ("plain", "dora", "plain")), ("mixtral", ("fused", "up only"))])
def test_fetched_again_and_read_by_ranges(
    shelf: Shelf, tmp_path: Path, kind: str, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    path = made(shelf, kind, *names)
    out = shelf.folder()
    first = shelf.registry.fetch(path.reference, out, **options)
    again = shelf.registry.fetch(path.reference, out, **options)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.truncation == first.truncation
    assert shelf.registry.verify(out).equal
    with shelf.registry.artifact(path.reference, **options) as artifact:
        assert artifact.rendering == first.rendering
        for name, file in artifact.files.items():
            data = (out / name).read_bytes()
            assert file.size == len(data)
            for start in range(0, file.size, 777):
                assert file.read(start, min(start + 777, file.size)) == data[start : start + 777]
    other = LocalRegistry.open(tmp_path / "other")
    other.add_base("elsewhere", path.base.folder)
    place = "elsewhere"
    for link in path.links:
        place += "/x"
        other.publish(link, place)
    other.fetch(place, tmp_path / "out", **options)
    other.close()
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (out / weights).read_bytes()


def test_other_options_are_other_renderings(shelf: Shelf, uneven: Made) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"rank": 1},
        {"rank": 2},
        {"rank": 99},
        {"max_error": 0.3},
        {"rank": 2, "uniform": True},
        {"rank": 2, "dtype": "bf16"},
    ]
    renderings = set()
    for one in options:
        with shelf.registry.artifact(uneven.reference, **one) as artifact:
            renderings.add(artifact.rendering)
    assert len(renderings) == len(options)


def test_what_is_there_already_is_reported_as_it_was_asked(shelf: Shelf, uneven: Made) -> None:
    """Caps above every rank mean the same adapter."""
    out = shelf.folder()
    first = shelf.registry.fetch(uneven.reference, out, rank=50)
    second = shelf.registry.fetch(uneven.reference, out, rank=60)
    assert (second.fresh, second.rendering) == (False, first.rendering)
    assert first.truncation is not None
    assert second.truncation == first.truncation.model_copy(update={"rank": 60})


# --- options ---


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 0}, "--rank must be 1 or more"),
        ({"rank": -3}, "--rank must be 1 or more"),
        ({"rank": "x"}, "rank"),
        ({"rank": 2.5}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": []}, "rank"),
        ({"max_error": 1.5}, "--max-error must be 0 or more"),
        ({"max_error": 1}, "--max-error must be 0 or more"),
        ({"max_error": -0.1}, "--max-error must be 0 or more"),
        ({"max_error": float("nan")}, "--max-error must be 0 or more"),
        ({"max_error": float("inf")}, "--max-error must be 0 or more"),
        ({"max_error": "much"}, "max_error"),
        ({"uniform": "perhaps"}, "uniform"),
        ({"rank": 2, "kind": "merged"}, "--rank needs --as lora"),
        ({"max_error": 0.1, "kind": "merged"}, "--max-error needs --as lora"),
        ({"rank": 2, "kind": "published"}, "--rank needs --as lora"),
        ({"uniform": True, "kind": "merged"}, "--uniform needs --as lora"),
    ],
)
def test_options_that_mean_nothing(shelf: Shelf, uneven: Made, options: dict[str, Any], what: str) -> None:
    out = shelf.folder()
    for call in (
        lambda: shelf.registry.fetch(uneven.reference, out, **options),
        lambda: shelf.registry.artifact(uneven.reference, **options),
    ):
        with pytest.raises(RegistryError) as refused:
            call()
        assert isinstance(refused.value, UsageError)
        assert what in str(refused.value)
    assert not out.exists()


def test_a_base_has_nothing_to_truncate(shelf: Shelf, uneven: Made) -> None:
    with pytest.raises(UsageError, match="base model"):
        shelf.registry.artifact(uneven.reference.partition("/")[0], rank=2)
