"""LoRA files as trainers of image models write them: published as they are, merged as their float64 sum says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.digest import PREFIX
from registry.errors import InvalidAdapterError, NotFoundError
from registry.images.adapter_file import made_config
from registry.images.native_names import family_of
from registry.services.local import LocalRegistry
from tests.images.denoisers import weights_of
from tests.kit.floats import round_once

Tensors = dict[str, torch.Tensor]
Denoiser = Callable[[str], tuple[Any, Path]]
Oracle = dict[str, np.ndarray[Any, Any]]

WEIGHTS = "diffusion_pytorch_model.safetensors"
FLAT = ("lora_down.weight", "lora_up.weight")
PEFT = ("lora_A.weight", "lora_B.weight")


def grid(shape: Iterable[int], drawn: torch.Generator) -> torch.Tensor:
    """Small multiples of 1/64: every sum of products of these is exact in float64."""
    return torch.randint(-32, 33, tuple(shape), generator=drawn).to(torch.float16) / 64


class Written:
    """A file in the making, and the change that it means, by diffusers' modules."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = weights_of(model)
        table = family_of(self.weights)
        assert table is not None
        self.native = dict(table.names(self.weights))
        self.swapped = table.swapped
        self.tensors: Tensors = {}
        self.deltas: Oracle = {}
        self._drawn = torch.Generator().manual_seed(11)

    def add(
        self,
        spelled: str,
        modules: tuple[str, ...],
        *,
        rank: int = 4,
        alpha: float | None = None,
        ends: tuple[str, str] = FLAT,
        swapped: bool = False,
        join: str = ".",
    ) -> None:
        """A pair of one module of the file, which is ``modules`` of the model, one below the other."""
        first = self.weights[modules[0]]
        rows = sum(self.weights[module].shape[0] for module in modules)
        down = grid((rank, *first.shape[1:]), self._drawn)
        up = grid((rows, rank, *(1 for _ in first.shape[2:])), self._drawn)
        self.tensors |= {f"{spelled}{join}{ends[0]}": down, f"{spelled}{join}{ends[1]}": up}
        if alpha is not None:
            self.tensors[f"{spelled}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
        scale = 1.0 if alpha is None else alpha / rank
        delta = scale * (up.double().reshape(rows, rank) @ down.double().reshape(rank, -1)).numpy()
        if swapped:
            delta = np.concatenate(np.split(delta, 2)[::-1])
        for module in modules:
            height = self.weights[module].shape[0]
            self.deltas[module], delta = delta[:height], delta[height:]

    def save(self, file: Path, metadata: Mapping[str, str] | None = None) -> Path:
        save_file(self.tensors, file, metadata=dict(metadata or {}))
        return file

    def merged(self) -> Oracle:
        """The weights that the file means, rounded once to bf16."""
        return {
            module: round_once(self.weights[module].double().reshape(delta.shape).numpy() + delta, "BF16")
            for module, delta in self.deltas.items()
        }


def check(local: LocalRegistry, reference: str, written: Written, folder: Path) -> None:
    """Hold a merged model to the float64 sum, bit for bit, and all other weights to the base."""
    local.fetch(reference, folder, kind="merged")
    out = load_file(folder / WEIGHTS)
    expected = written.merged()
    for module, weight in written.weights.items():
        found = out[f"{module}.weight"]
        if module in expected:
            assert np.array_equal(found.double().reshape(expected[module].shape).numpy(), expected[module]), module
        else:
            assert torch.equal(found, weight), module


def kohya(written: Written, lead: str = "lora_unet_") -> None:
    """Every module by its native name where it has one, with alphas of three sizes."""
    native = {modules: name for name, modules in written.native.items() if ".processor." not in name}
    done = set()
    for number, (modules, name) in enumerate(sorted(native.items())):
        written.add(
            lead + name.replace(".", "_"), modules, alpha=(8.0, 2.0, 1.0)[number % 3], swapped=name in written.swapped
        )
        done |= set(modules)
    for module in written.weights.keys() - done:
        written.add(lead + module.replace(".", "_"), (module,), rank=2, alpha=1.0)


def comfy(written: Written) -> None:
    for name, modules in written.native.items():
        if ".processor." not in name:
            written.add(f"diffusion_model.{name}", modules, alpha=2.0, swapped=name in written.swapped)


def ai_toolkit(written: Written) -> None:
    for number, (name, modules) in enumerate(written.native.items()):
        if ".processor." not in name and name not in written.swapped:
            written.add(f"diffusion_model.{name}", modules, rank=2 + 2 * (number % 2), ends=PEFT)


def xlabs(written: Written) -> None:
    for name, modules in written.native.items():
        if ".processor." in name:
            written.add(name, modules, ends=("down.weight", "up.weight"))


def one_trainer(written: Written) -> None:
    for module in written.weights:
        written.add(f"lora_transformer_{module.replace('.', '_')}", (module,), alpha=1.0)


def one_trainer_legacy(written: Written) -> None:
    for module in list(written.weights)[:6]:
        written.add(f"transformer.{module}", (module,), alpha=8.0)


def diffusers_new(written: Written, lead: str = "unet.") -> None:
    for module in written.weights:
        written.add(f"{lead}{module}", (module,), rank=2, ends=PEFT)


def diffusers_old(written: Written) -> None:
    for module in written.weights:
        place, _, leaf = module.partition(".attn1.to_")
        if leaf:
            spelled = f"unet.{place}.attn1.processor.to_{leaf.removesuffix('.0')}_lora"
            written.add(spelled, (module,), ends=("down.weight", "up.weight"))


@pytest.mark.parametrize(
    ("family", "write"),
    [
        ("sd", kohya),
        ("sdxl", kohya),
        ("sdxl", diffusers_new),
        ("sd", diffusers_old),
        ("sd-3", kohya),
        ("flux", kohya),
        ("flux", comfy),
        ("flux", ai_toolkit),
        ("flux", xlabs),
        ("flux", one_trainer),
        ("flux", one_trainer_legacy),
        ("flux-2", comfy),
        ("wan", kohya),
        ("z-image", comfy),
    ],
)
def test_a_file_is_published_as_it_is_and_means_its_float64_sum(
    family: str, write: Callable[[Written], None], denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser(family)
    written = Written(model)
    write(written)
    file = written.save(tmp_path / "MyChar.safetensors", {"ss_network_module": "networks.lora"})
    local.add_base("model", folder)
    published = local.publish(file, "model/char").revision
    stored = {one.path: one.digest for one in local.show(published.reference).files}
    assert stored["adapter_model.safetensors"] == PREFIX + hashlib.sha256(file.read_bytes()).hexdigest()
    check(local, "model/char", written, tmp_path / "merged")


def test_the_composed_adapter_of_a_path_says_the_same(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    model, folder = denoiser("flux")
    first, second = Written(model), Written(model)
    kohya(first)
    diffusers_new(second, "transformer.")
    local.add_base("model", folder)
    local.publish(first.save(tmp_path / "first.safetensors"), "model/first")
    local.publish(second.save(tmp_path / "second.safetensors"), "model/first/second")
    local.fetch("model/first/second", tmp_path / "lora", kind="lora")
    out = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert "registry" not in config
    for module, delta in first.deltas.items():
        lead = f"base_model.model.{module}"
        a, b = (out[f"{lead}.lora_{one}.weight"].double() for one in "AB")
        found = (b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)).numpy()
        assert np.allclose(found, delta + second.deltas.get(module, 0.0), rtol=0, atol=1e-5), module


def test_a_folder_of_a_training_is_taken_with_what_lies_beside(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    written = Written(model)
    diffusers_new(written)
    trained = tmp_path / "trained"
    trained.mkdir()
    written.save(trained / "pytorch_lora_weights.safetensors", {"format": "pt"})
    (trained / "README.md").write_text("# A character\n")
    (trained / "image_0.png").write_bytes(b"\x89PNG")
    local.add_base("model", folder)
    published = local.publish(trained, "model/char").revision
    assert {one.path for one in local.show(published.reference).files} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "image_0.png"
    }  # fmt: skip
    check(local, "model/char", written, tmp_path / "merged")


@pytest.mark.parametrize("rslora", [False, True])
def test_what_diffusers_wrote_of_the_configuration_counts(
    *, rslora: bool, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    written = Written(model)
    modules = [module for module in written.weights if module.endswith("attn1.to_q")]
    for module in modules:
        written.add(f"unet.{module}", (module,), rank=4, ends=PEFT)
    scale = 8 / 2 if rslora else 8 / 4
    written.deltas = {module: scale * delta for module, delta in written.deltas.items()}
    told = {"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": rslora, "unet.target_modules": ["to_q"],
            "unet.exclude_modules": ["attn2.to_q"], "unet.peft_type": "LORA", "text_encoder.r": 2}  # fmt: skip
    file = written.save(tmp_path / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    local.add_base("model", folder)
    local.publish(file, "model/char")
    check(local, "model/char", written, tmp_path / "merged")


def test_a_dora_on_rows_rescales_every_row(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    model, folder = denoiser("flux")
    written = Written(model)
    written.add("lora_unet_double_blocks_0_img_attn_qkv", written.native["double_blocks.0.img_attn.qkv"], alpha=2.0)
    modules = list(written.deltas)
    rows = sum(written.weights[module].shape[0] for module in modules)
    magnitude = torch.rand((rows, 1), generator=torch.Generator().manual_seed(2)) + 0.5
    written.tensors["lora_unet_double_blocks_0_img_attn_qkv.dora_scale"] = magnitude
    local.add_base("model", folder)
    local.publish(written.save(tmp_path / "dora.safetensors"), "model/char")
    local.fetch("model/char", tmp_path / "merged", kind="merged")
    out = load_file(tmp_path / "merged" / WEIGHTS)
    row = 0
    for module in modules:
        changed = written.weights[module].double().numpy() + written.deltas[module]
        height = changed.shape[0]
        norm = np.linalg.norm(changed, axis=1, keepdims=True)
        expected = magnitude[row : row + height].double().numpy() * changed / norm
        row += height
        found = out[f"{module}.weight"].double().numpy()
        assert np.abs(found - expected).max() <= np.abs(expected).max() * 2**-8
        assert (found == round_once(expected, "BF16")).mean() > 0.999


@pytest.mark.slow
def test_diffusers_loads_and_fuses_the_same(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    model, folder = denoiser("sdxl")
    written = Written(model)
    diffusers_new(written)
    file = written.save(tmp_path / "pytorch_lora_weights.safetensors", {"format": "pt"})
    local.add_base("model", folder)
    local.publish(file, "model/char")
    local.fetch("model/char", tmp_path / "merged", kind="merged")
    ours = load_file(tmp_path / "merged" / WEIGHTS)
    peer = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    peer.load_lora_adapter(load_file(file), prefix="unet")
    peer.fuse_lora()
    fused = {name.replace(".base_layer", ""): value for name, value in peer.state_dict().items() if "lora_" not in name}
    for module in written.weights:
        one, other = ours[f"{module}.weight"].float(), fused[f"{module}.weight"].float()
        unit = 2.0 ** (torch.floor(torch.log2(one.abs().clamp_min(1e-30))) - 7)
        change = torch.from_numpy(written.deltas[module]).float().reshape(one.shape).abs()
        # diffusers rounds the factors' product to bf16 before it adds it
        assert ((one - other).abs() <= unit + change * 2**-8).all(), module


def one_pair(written: Written, spelled: str = "lora_unet_conv_in", module: str = "conv_in") -> Tensors:
    written.add(spelled, (module,), alpha=2.0)
    return written.tensors


def edited(edit: Callable[[Tensors], object]) -> Callable[[Written], None]:
    def write(written: Written) -> None:
        edit(one_pair(written))

    return write


def without_axis(written: Written) -> None:
    written.add("lora_unet_time_embedding_linear_2", ("time_embedding.linear_2",))
    written.tensors["lora_unet_time_embedding_linear_2.dora_scale"] = torch.ones(64)


def on_one_of_two(written: Written) -> None:
    one_pair(written)
    written.add("lora_unet_conv_out", ("conv_out",))
    written.tensors["lora_unet_conv_in.dora_scale"] = torch.ones(16, 1, 1, 1)


REFUSED: dict[str, tuple[Callable[[Written], None], str]] = {
    "alpha of 0": (edited(lambda t: t.update({"lora_unet_conv_in.alpha": torch.tensor(0.0)})), "alpha_zero"),
    "alpha that is NaN": (
        edited(lambda t: t.update({"lora_unet_conv_in.alpha": torch.tensor(np.nan)})),
        "alpha_invalid",
    ),
    "alpha with a dimension": (
        edited(lambda t: t.update({"lora_unet_conv_in.alpha": torch.ones(1)})),
        "alpha_invalid",
    ),
    "a factor without a dimension": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_down.weight": torch.tensor(1.0)})),
        "shape_mismatch",
    ),
    "a factor without a row": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_down.weight": torch.ones(0, 4, 3, 3)})),
        "shape_mismatch",
    ),
    "up is missing": (edited(lambda t: t.pop("lora_unet_conv_in.lora_up.weight")), "incomplete_pair"),
    "down is missing": (edited(lambda t: t.pop("lora_unet_conv_in.lora_down.weight")), "incomplete_pair"),
    "alpha alone": (edited(lambda t: t.update({"lora_unet_conv_out.alpha": torch.tensor(1.0)})), "incomplete_pair"),
    "half a LoHa": (edited(lambda t: t.update({"lora_unet_conv_out.hada_w1_a": torch.ones(2, 2)})), "incomplete_pair"),
    "half a LoKr": (edited(lambda t: t.update({"lora_unet_conv_out.lokr_w1": torch.ones(2, 2)})), "incomplete_pair"),
    "a core on channels and taps": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_mid.weight": torch.ones(4, 4, 3, 3)})),
        "shape_mismatch",
    ),
    "two changes of one module": (
        edited(lambda t: t.update({"lora_unet_conv_in.diff": torch.ones(16, 4, 3, 3)})),
        "unexpected_tensor",
    ),
    "a bias that the model lacks": (
        edited(
            lambda t: t.update(
                {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.diff_b": torch.ones(16)}
            )
        ),
        "unknown_target",
    ),
    "a bias of another size": (
        edited(lambda t: t.update({"lora_unet_conv_out.diff_b": torch.ones(5)})),
        "shape_mismatch",
    ),
    "factors of a norm": (
        edited(
            lambda t: t.update(
                {
                    "lora_unet_conv_norm_out.lora_down.weight": torch.ones(2, 16),
                    "lora_unet_conv_norm_out.lora_up.weight": torch.ones(16, 2),
                }
            )
        ),
        "unknown_target",
    ),
    "OFT": (edited(lambda t: t.update({"lora_unet_conv_out.oft_blocks": torch.ones(2, 2, 2)})), "format_unsupported"),
    "BOFT": (edited(lambda t: t.update({"lora_unet_conv_out.oft_diag": torch.ones(2, 2, 2)})), "format_unsupported"),
    "GLoRA": (edited(lambda t: t.update({"lora_unet_conv_out.a1.weight": torch.ones(2, 2)})), "format_unsupported"),
    "T-LoRA": (edited(lambda t: t.update({"lora_unet_conv_out.lambda_layer": torch.ones(1, 2)})), "format_unsupported"),
    "DyLoRA": (edited(lambda t: t.update({"lora_unet_conv_out.lora_A.0": torch.ones(1, 2)})), "format_unsupported"),
    "a scalar of training": (
        edited(lambda t: t.update({"lora_unet_conv_in.scalar": torch.tensor(0.5)})),
        "format_unsupported",
    ),
    "unknown module": (
        edited(lambda t: t.update({f"lora_unet_conv_mid.{end}": torch.ones(2, 2) for end in FLAT})),
        "unknown_target",
    ),
    "text encoder too": (
        edited(lambda t: t.update({f"lora_te_text_model_final_layer_norm.{end}": torch.ones(2, 2) for end in FLAT})),
        "several_components",
    ),
    "both spellings": (
        edited(lambda t: t.update({k.replace("conv_in", "input_blocks_0_0"): v.clone() for k, v in t.items()})),
        "module_twice",
    ),
    "other input": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_down.weight": torch.ones(4, 9, 3, 3)})),
        "shape_mismatch",
    ),
    "other output": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_up.weight": torch.ones(17, 4, 1, 1)})),
        "shape_mismatch",
    ),
    "other rank": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_up.weight": torch.ones(16, 2, 1, 1)})),
        "rank_mismatch",
    ),
    "integers": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_up.weight": torch.ones(16, 4, 1, 1, dtype=torch.int8)})),
        "bad_dtype",
    ),
    "NaN": (
        edited(lambda t: t.update({"lora_unet_conv_in.lora_up.weight": torch.full((16, 4, 1, 1), torch.nan)})),
        "non_finite",
    ),
    "DoRA on taps": (
        edited(lambda t: t.update({"lora_unet_conv_in.dora_scale": torch.ones(1, 36)})),
        "shape_mismatch",
    ),
    "IA3 of other rows": (
        edited(
            lambda t: t.update(
                {"lora_unet_conv_out.weight": torch.ones(1, 5, 1, 1), "lora_unet_conv_out.on_input": torch.tensor(0)}
            )
        ),
        "shape_mismatch",
    ),
    "IA3 without a side": (
        edited(lambda t: t.update({"lora_unet_conv_out.weight": torch.ones(1, 4, 1, 1)})),
        "unexpected_tensor",
    ),
    "IA3 of a third side": (
        edited(
            lambda t: t.update(
                {"lora_unet_conv_out.weight": torch.ones(1, 4, 1, 1), "lora_unet_conv_out.on_input": torch.tensor(2)}
            )
        ),
        "alpha_invalid",
    ),
    "DoRA without an axis": (
        without_axis,
        "dora_axis_ambiguous",
    ),
    "DoRA on one of two": (
        on_one_of_two,
        "dora_incomplete",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_certain_is_refused_and_nothing_stored(
    case: str, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    written = Written(model)
    write, code = REFUSED[case]
    write(written)
    local.add_base("model", folder)
    file = written.save(tmp_path / "MyChar.safetensors")
    with pytest.raises(InvalidAdapterError) as caught:
        local.publish(file, "model/char")
    assert caught.value.code == code, str(caught.value)
    assert str(tmp_path) not in str(caught.value).replace(str(file), "")
    assert not list(local.tree("model").adapters())


def test_a_header_that_is_nested_without_end_is_no_lora(local: LocalRegistry, tmp_path: Path) -> None:
    file = tmp_path / "deep.safetensors"
    head = b'{"a":' + b"[" * 200_000
    file.write_bytes(len(head).to_bytes(8, "little") + head)
    for ask in (lambda: local.publish(file, "model/deep"), lambda: local.identify(file)):
        with pytest.raises(NotFoundError, match="no safetensors file that can be read"):
            ask()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"split_qkv": "True"}, True), ({"split_qkv": "False", "train_t5xxl": "True"}, False), ({"conv_dim": "4"}, False)],
)
def test_a_joined_pair_of_split_training_is_told(
    arguments: dict[str, str], *, told: bool, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    written = Written(model)
    one_pair(written)
    local.add_base("model", folder)
    file = written.save(tmp_path / "split.safetensors", {"ss_network_args": json.dumps(arguments)})
    notices = local.publish(file, "model/split").revision.notices
    assert any("split_qkv" in notice for notice in notices) is told


def test_a_control_lora_is_refused_by_name(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    _, folder = denoiser("flux")
    local.add_base("model", folder)
    file = tmp_path / "control.safetensors"
    save_file({"diffusion_model.img_in.lora_A.weight": torch.ones(2, 8),
               "diffusion_model.img_in.lora_B.weight": torch.ones(16, 2)}, file)  # fmt: skip
    with pytest.raises(InvalidAdapterError) as caught:
        local.publish(file, "model/control")
    assert caught.value.code == "input_widened"


def test_an_alpha_that_only_the_metadata_has_is_asked_about(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    local.add_base("model", folder)
    for alpha, refused in (("8", True), ("4", False)):
        written = Written(model)
        written.add("lora_unet_conv_in", ("conv_in",))
        file = written.save(tmp_path / "said.safetensors", {"ss_network_alpha": alpha})
        if refused:
            with pytest.raises(InvalidAdapterError) as caught:
                local.publish(file, "model/char")
            assert caught.value.code == "alpha_unclear"
        else:
            local.publish(file, "model/char")


def test_an_alpha_is_compared_with_the_tensor_that_holds_it(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    from registry.files.header import TensorEntry, read_header
    from registry.files.source import FileSource, read_range

    model, folder = denoiser("sd")
    written = Written(model)
    one_pair(written)
    forged = tmp_path / "forged"
    forged.mkdir()
    file = written.save(forged / "adapter_model.safetensors")
    with FileSource(file) as source:

        def read(entry: TensorEntry) -> bytes:
            return bytes(read_range(source, entry.start, entry.stop))

        config = made_config(read_header(source, what="it", error=InvalidAdapterError), read, "MyChar.safetensors")
    local.add_base("model", folder)
    for alpha, code in ((16.0, "alpha_invalid"), (2.0, None)):
        (forged / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": alpha}))
        if code is not None:
            with pytest.raises(InvalidAdapterError) as caught:
                local.publish(forged, "model/char")
            assert caught.value.code == code
        else:
            assert local.publish(forged, "model/char").revision.rank == 4
