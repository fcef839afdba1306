"""LoCon with a core, LoHa, LoKr and differences: merged, composed, truncated, compared, and as rows of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.images.adapter_file import LoraFile
from registry.images.expressions import ComputedEntry
from registry.images.normal_form import SwappedHalves, normal_form
from registry.services.local import LocalRegistry
from registry.tensors.checkpoint.computed import Computed
from registry.tensors.checkpoint.factors import Plain, Swapped
from tests.images.denoisers import weights_of
from tests.images.forms import FORMS, Drawn, Matrix, Tensors, flat
from tests.kit.floats import round_once

Denoiser = Callable[[str], tuple[Any, Path]]
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCALES = {"pair": 2.0, "lokr-full": 1e10}  # alphas; a LoKr of whole matrices ignores its own


class File:
    """A file in the making, and the changes that it means, by diffusers' modules."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = weights_of(model)
        self.drawn = Drawn()
        self.tensors: Tensors = {}
        self.deltas: dict[str, Matrix] = {}

    def add(self, form: str, spelled: str, modules: tuple[str, ...], rank: int = 2, *, swapped: bool = False) -> None:
        inner = self.weights[modules[0]].shape[1:]
        rows = sum(self.weights[module].shape[0] for module in modules)
        found, delta, own = FORMS[form](self.drawn, rows, tuple(inner), rank)
        self.tensors |= {f"{spelled}.{end}": value for end, value in found.items()}
        alpha = SCALES.get(form, 1.0)
        self.tensors[f"{spelled}.alpha"] = torch.tensor(alpha)
        delta = delta * (1.0 if own is None else alpha / own)
        if swapped:
            delta = np.concatenate(np.split(delta, 2)[::-1])
        for module in modules:
            height = self.weights[module].shape[0]
            self.deltas[module], delta = delta[:height], delta[height:]

    def save(self, file: Path, metadata: dict[str, str] | None = None) -> Path:
        save_file(self.tensors, file, metadata=metadata)
        return file

    def merged(self) -> dict[str, Matrix]:
        return {module: round_once(flat(self.weights[module]) + delta, "BF16") for module, delta in self.deltas.items()}


def check_merged(local: LocalRegistry, reference: str, file: File, folder: Path) -> dict[str, torch.Tensor]:
    local.fetch(reference, folder, kind="merged")
    out = load_file(folder / WEIGHTS)
    expected = file.merged()
    for module, weight in file.weights.items():
        found = flat(out[f"{module}.weight"])
        wrong = found != expected.get(module, flat(weight))
        assert not wrong.any(), (module, wrong.sum(), found[wrong], expected[module][wrong])
    return out


def every_form(model: torch.nn.Module) -> File:
    """Each form on a convolution, and on modules without taps where it has one; ranks below and above the limit."""
    file = File(model)
    taps = [name for name, value in file.weights.items() if value.shape[2:] == (3, 3)]
    linear = [name for name, value in file.weights.items() if value.ndim == 2]
    points = [name for name, value in file.weights.items() if value.shape[2:] == (1, 1)]
    for number, form in enumerate(FORMS):
        names = [taps.pop(0), taps.pop(), linear.pop(0), linear.pop(), points.pop()]
        for at, module in enumerate(names[:2] if form in ("tucker", "loha-tucker", "lokr-core") else names):
            file.add(form, f"lora_unet_{module.replace('.', '_')}", (module,), (1, 4)[(at + number) % 2])
    return file


@pytest.fixture(scope="module")
def published(denoiser: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalRegistry, File]]:
    model, folder = denoiser("sd")
    place = tmp_path_factory.mktemp("forms")
    local = LocalRegistry.open(place / "local", cache_folder=place / "cache")
    file = every_form(model)
    local.add_base("model", folder)
    local.publish(file.save(place / "char.safetensors"), "model/char")
    yield local, file
    local.close()


def test_every_form_is_merged_as_its_float64_sum(published: tuple[LocalRegistry, File], tmp_path: Path) -> None:
    local, file = published
    check_merged(local, "model/char", file, tmp_path / "merged")


def test_every_form_is_one_lora_when_it_is_composed(published: tuple[LocalRegistry, File], tmp_path: Path) -> None:
    local, file = published
    local.fetch("model/char", tmp_path / "lora")
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for module, delta in file.deltas.items():
        a, b = (flat(tensors[f"base_model.model.{module}.lora_{part}.weight"]) for part in "AB")
        assert a.shape[0] <= min(delta.shape)
        assert np.abs(b @ a - delta).max() <= 2.0**-22 * max(1.0, np.abs(delta).max()) * a.shape[0], module


@pytest.mark.parametrize("weight", [0.75, -1.5, 0.0])
def test_every_form_takes_a_weight(published: tuple[LocalRegistry, File], tmp_path: Path, weight: float) -> None:
    """W + w s D of every form, bit for bit; the weights are sums of few powers of two, so the sum is one in float64."""
    local, file = published
    weighted = File.__new__(File)
    weighted.weights, weighted.deltas = file.weights, {name: weight * one for name, one in file.deltas.items()}
    check_merged(local, f"model/char@1:{weight}", weighted, tmp_path / "merged")


def test_rows_of_joined_modules_are_cut_from_every_form(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("flux")
    double = [f"transformer_blocks.{{}}.attn.{leaf}" for leaf in ("to_q", "to_k", "to_v")]
    single = [f"single_transformer_blocks.{{}}.{leaf}" for leaf in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    file = File(model)
    for number, (form, rank) in enumerate(
        [("loha", 1), ("loha", 4), ("lokr-second", 1), ("lokr-full", 1), ("difference", 1)]
    ):
        if number < 2:
            modules = tuple(one.format(number) for one in double)
            file.add(form, f"lora_unet_double_blocks_{number}_img_attn_qkv", modules, rank)
        elif number < 4:
            modules = tuple(one.format(number - 2) for one in single)
            file.add(form, f"lora_unet_single_blocks_{number - 2}_linear1", modules, rank)
        else:
            file.add(form, "lora_unet_final_layer_adaLN_modulation_1", ("norm_out.linear",), swapped=True)
    local.add_base("model", folder)
    local.publish(file.save(tmp_path / "char.safetensors"), "model/char")
    check_merged(local, "model/char", file, tmp_path / "merged")


@pytest.mark.parametrize("form", ["lokr-second", "lokr-full", "loha", "lokr-both"])
def test_halves_that_diffusers_keeps_the_other_way_are_swapped_in_every_form(form: str) -> None:
    shapes = {"x_embedder": (16, 4), "single_transformer_blocks.0.proj_mlp": (64, 16), "norm_out.linear": (32, 16),
              "time_text_embed.timestep_embedder.linear_1": (16, 8)}  # fmt: skip
    for rank in (1, 4):
        found, delta, own = FORMS[form](Drawn(rank), 32, (16,), rank)
        tensors = {f"lora_unet_final_layer_adaLN_modulation_1.{end}": value for end, value in found.items()}
        swapped = np.concatenate(np.split(delta, 2)[::-1])
        assert np.array_equal(read(tensors, shapes, own)["norm_out.linear"], swapped)


def read(
    tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], alpha: float | None, rank: int | None = None
) -> dict[str, Matrix]:
    """The changes that a file means, of factors that are read a few rows at a time."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        file = Path(place) / "drawn.safetensors"
        save_file(tensors, file)
        with FileSource(file) as source:
            header = read_header(source, what="it", error=InvalidAdapterError)
            form = normal_form(LoraFile("kohya", "it", {}, rank=rank), alpha or 1.0, header.entries, shapes, {})
            found = {}
            for module in {name.removesuffix(".lora_A.weight") for name in form.tensors if name.endswith("A.weight")}:
                factors = []
                for part in "BA":
                    entry = form.tensors[f"{module}.lora_{part}.weight"]
                    kind = (
                        Computed
                        if isinstance(entry, ComputedEntry)
                        else Swapped
                        if isinstance(entry, SwappedHalves)
                        else Plain
                    )
                    matrix = kind(entry)  # type: ignore[arg-type]
                    step = 5
                    rows = [matrix.read(source, at, min(at + step, matrix.shape[0])).double()
                            for at in range(0, matrix.shape[0], step)]  # fmt: skip
                    whole = matrix.read(source, 0, matrix.shape[0]).double()
                    assert torch.equal(torch.cat(rows), whole)
                    assert whole.shape == matrix.shape
                    factors.append(whole.numpy())
                name = module.removeprefix("base_model.model.")
                assert form.scales is not None
                found[name] = factors[0] @ factors[1] * form.scales[name].scaling
            return found


@settings(max_examples=120, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    rows=st.integers(1, 24),
    channels=st.integers(1, 24),
    kernel=st.sampled_from([(), (1, 1), (3, 3), (2, 1), (3, 1, 2)]),
    rank=st.integers(1, 6),
    seed=st.integers(0, 1000),
    fine=st.sampled_from([None, torch.bfloat16, torch.float32]),
)
def test_a_drawn_change_has_its_factors(
    form: str, rows: int, channels: int, kernel: tuple[int, ...], rank: int, seed: int, fine: torch.dtype | None
) -> None:
    inner = (channels, *kernel)
    found, delta, own = FORMS[form](Drawn(seed, fine), rows, inner, rank)
    product = read({f"transformer.one.{end}": value for end, value in found.items()}, {"one": (rows, *inner)}, own)[
        "one"
    ]
    if fine is None:
        assert np.array_equal(product, delta)
    else:
        assert np.abs(product - delta).max() <= 1e-13 * max(1.0, np.abs(delta).max())


def test_norms_and_biases_are_added_to_and_weights_set(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("wan")
    drawn, state = Drawn(), model.state_dict()
    lead = "diffusion_model.blocks.0."
    tensors = {
        f"{lead}norm3.diff": ("blocks.0.norm2.weight", drawn(24)),
        f"{lead}norm3.diff_b": ("blocks.0.norm2.bias", drawn(24)),
        f"{lead}self_attn.norm_q.diff": ("blocks.0.attn1.norm_q.weight", drawn(24)),
        f"{lead}ffn.0.diff_b": ("blocks.0.ffn.net.0.proj.bias", drawn(32)),
        f"{lead}cross_attn.o.diff_b": ("blocks.0.attn2.to_out.0.bias", torch.zeros(24)),
        "diffusion_model.time_projection.1.diff": ("condition_embedder.time_proj.weight", drawn(144, 24)),
        "diffusion_model.time_projection.1.diff_b": ("condition_embedder.time_proj.bias", drawn(144)),
    }
    absolute = drawn(24, 24)
    saved = {name: value for name, (_, value) in tensors.items()}
    saved[f"{lead}self_attn.q.set_weight"] = absolute
    save_file(saved, tmp_path / "char.safetensors")
    local.add_base("model", folder)
    revision = local.publish(tmp_path / "char.safetensors", "model/char").revision
    assert any("also adds to" in notice for notice in revision.notices)
    local.fetch("model/char", tmp_path / "merged", kind="merged")
    out = load_file(tmp_path / "merged" / WEIGHTS)
    changed = {"blocks.0.attn1.to_q.weight"}
    assert torch.equal(out["blocks.0.attn1.to_q.weight"].double(), absolute.double())
    for parameter, value in tensors.values():
        expected = round_once(state[parameter].double().numpy() + value.double().numpy(), "BF16")
        assert np.array_equal(out[parameter].double().numpy(), expected), parameter
        changed.add(parameter)
    assert all(torch.equal(value, out[name]) for name, value in state.items() if name not in changed)
    local.fetch("model/char", tmp_path / "lora")
    composed = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    norm = state["blocks.0.norm2.weight"].float() + saved[f"{lead}norm3.diff"].float()
    assert torch.equal(composed["base_model.model.blocks.0.norm2.weight"], norm)


def test_what_peft_writes_of_a_lokr_follows_peft(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    """PEFT scales a LoKr by alpha / r whatever its factors are; LyCORIS does not where both are whole."""
    model, folder = denoiser("flux")
    local.add_base("model", folder)
    for tuner, form in (("LOKR", "lokr-full"), ("LOKR", "lokr-second"), ("LOHA", "loha")):
        file = File(model)
        file.add(form, "transformer.proj_out", ("proj_out",), 4)
        own = 1.0 if form == "lokr-full" else 0.25
        file.deltas["proj_out"] = file.deltas["proj_out"] / own * 2.0
        del file.tensors["transformer.proj_out.alpha"]
        told = {"transformer.peft_type": tuner, "transformer.r": 4, "transformer.alpha": 8}
        name = f"{tuner.lower()}-{form}"
        file.save(tmp_path / f"{name}.safetensors", {"lora_adapter_metadata": json.dumps(told)})
        local.publish(tmp_path / f"{name}.safetensors", f"model/{name}")
        check_merged(local, f"model/{name}", file, tmp_path / f"merged-{name}")
        for wrong in ({"transformer.r": 3}, {"transformer.alpha_pattern": {"proj_out": 1}}):
            bad = tmp_path / "bad.safetensors"
            file.save(bad, {"lora_adapter_metadata": json.dumps(told | wrong)})
            if form != "lokr-full" or "transformer.r" not in wrong:
                with pytest.raises(InvalidAdapterError) as caught:
                    local.publish(bad, "model/bad")
                assert caught.value.code in ("rank_mismatch", "bad_config")


def test_a_path_over_every_form_is_composed_truncated_and_weighed(
    published: tuple[LocalRegistry, File], tmp_path: Path
) -> None:
    local, file = published
    child = File.__new__(File)
    child.weights, child.drawn, child.tensors, child.deltas = file.weights, Drawn(5), {}, {}
    for module in file.deltas:
        child.add("pair", f"lora_unet_{module.replace('.', '_')}", (module,), 2)
    local.publish(child.save(tmp_path / "child.safetensors"), "model/char/child")
    both = {module: delta + child.deltas[module] for module, delta in file.deltas.items()}
    local.fetch("model/char/child", tmp_path / "merged", kind="merged")
    merged = load_file(tmp_path / "merged" / WEIGHTS)
    for module, delta in both.items():
        expected = round_once(flat(file.weights[module]) + delta, "BF16")
        assert np.array_equal(flat(merged[f"{module}.weight"]), expected), module
    assert [one.reference for one in local.identify(tmp_path / "merged").merged] == ["model/char/child@1"]
    local.combine({"model/char": 0.5, "model/char/child": 2.0}, "model/mixed", over="model")
    local.fetch("model/mixed", tmp_path / "mixed", kind="merged")
    merged = load_file(tmp_path / "mixed" / WEIGHTS)
    for module, delta in file.deltas.items():
        expected = round_once(flat(file.weights[module]) + 2.5 * delta + 2.0 * child.deltas[module], "BF16")
        found = flat(merged[f"{module}.weight"])
        assert np.abs(found - expected).max() <= 2.0**-7 * np.abs(expected).max(), module
        assert (found == expected).mean() > 0.99, module
    local.fetch("model/char/child", tmp_path / "small", max_error=0.05)
    tensors = load_file(tmp_path / "small" / "adapter_model.safetensors")
    lost = total = 0.0
    for module, delta in both.items():
        a, b = (flat(tensors[f"base_model.model.{module}.lora_{part}.weight"]) for part in "AB")
        lost += float(np.square(b @ a - delta).sum())
        total += float(np.square(delta).sum())
    assert lost <= (0.05 * 1.001) ** 2 * total


def test_statistics_of_every_form_are_those_of_its_change(published: tuple[LocalRegistry, File]) -> None:
    local, file = published
    found = {one.module: one for one in local.stats("model/char").path.modules}
    for module, delta in file.deltas.items():
        assert found[module].energy == pytest.approx(float(np.square(delta).sum()), rel=1e-9)


LYCORIS: dict[str, tuple[str, dict[str, Any]]] = {
    "locon": ("locon.LoConModule", {}),
    "locon-tucker": ("locon.LoConModule", {"use_tucker": True}),
    "loha": ("loha.LohaModule", {}),
    "loha-tucker": ("loha.LohaModule", {"use_tucker": True}),
    "lokr": ("lokr.LokrModule", {"factor": 4}),
    "lokr-tucker": ("lokr.LokrModule", {"factor": 4, "use_tucker": True}),
    "lokr-both": ("lokr.LokrModule", {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "lokr-full": ("lokr.LokrModule", {"factor": 4, "full_matrix": True}),
    "lokr-rs": ("lokr.LokrModule", {"factor": 4, "rs_lora": True}),
    "loha-rs": ("loha.LohaModule", {"rs_lora": True}),
}
MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "linear": lambda: torch.nn.Linear(24, 32, dtype=torch.float64),
    "conv": lambda: torch.nn.Conv2d(12, 32, 3, dtype=torch.float64),
    "point": lambda: torch.nn.Conv2d(12, 32, 1, dtype=torch.float64),
}


def of_lycoris(kind: str, shape: str, **options: Any) -> tuple[Any, torch.nn.Module]:
    """A module of LyCORIS with drawn weights around one of torch."""
    from importlib import import_module

    pytest.importorskip("lycoris")

    path, own = LYCORIS[kind]
    file, name = path.split(".")
    torch.manual_seed(4)
    around = MODULES[shape]()
    made = getattr(import_module(f"lycoris.modules.{file}"), name)(
        "it", around, 1.0, **{"lora_dim": 2, "alpha": 3.0, **own, **options}
    )
    made.double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    made.apply_to()
    return made, around


def trained_weight(made: Any, around: torch.nn.Module) -> Matrix:
    """What the forward that was trained multiplies by: its answers to unit inputs."""
    weight: torch.Tensor = around.get_parameter("weight").detach()
    columns = weight[0].numel()
    units = torch.eye(columns, dtype=torch.float64).reshape(columns, *weight.shape[1:])
    zero = torch.zeros(1, *weight.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        return np.asarray((made(units) - made(zero)).reshape(columns, -1).T.numpy())


def of_file(made: Any, lead: str = "transformer.one") -> Tensors:
    return {f"{lead}.{end}": value.detach().clone().contiguous() for end, value in made.custom_state_dict().items()}


@pytest.mark.parametrize("shape", list(MODULES))
@pytest.mark.parametrize("kind", list(LYCORIS))
def test_a_change_is_what_lycoris_trained(kind: str, shape: str) -> None:
    made, around = of_lycoris(kind, shape)
    weight: torch.Tensor = around.get_parameter("weight").detach()
    tensors = of_file(made)
    alpha = tensors.pop("transformer.one.alpha").item()
    change = read(tensors, {"one": tuple(weight.shape)}, alpha)["one"]
    trained = trained_weight(made, around) - flat(weight)
    stored = 1e-7 if kind.endswith("rs") else 1e-12  # alpha sqrt(r) is kept in float32
    assert np.abs(change - trained).max() <= stored * np.abs(trained).max()


@pytest.mark.parametrize("shape", list(MODULES))
@pytest.mark.parametrize(
    ("tuner", "options"),
    [("LoKr", {}), ("LoKr", {"decompose_factor": 4}), ("LoHa", {}), ("LoHa", {"use_effective_conv2d": True})],
)
def test_a_change_is_what_peft_makes_of_it(tuner: str, options: dict[str, Any], shape: str) -> None:
    import peft

    torch.manual_seed(6)
    around = torch.nn.Sequential(MODULES[shape]())
    weight = flat(around[0].get_parameter("weight").detach()).copy()
    config = getattr(peft, f"{tuner}Config")(r=2, alpha=3, target_modules=["0"], init_weights=False, **options)
    model = peft.get_peft_model(around, config).double()
    state = peft.get_peft_model_state_dict(model)
    tensors = {name.replace("base_model.model.0.", "transformer.one."): one.contiguous() for name, one in state.items()}
    merged = flat(model.merge_and_unload()[0].get_parameter("weight").detach())
    shapes = {"one": tuple(MODULES[shape]().get_parameter("weight").shape)}
    change = read(tensors, shapes, 3.0, rank=2)["one"]
    assert np.abs(change - (merged - weight)).max() <= 1e-12 * np.abs(change).max()
