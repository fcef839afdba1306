"""Tables of denoisers from their configs alone, held to diffusers' classes: real ones, small ones, and drawn ones."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import InvalidBaseError
from registry.tensors.limited import package_folders
from registry.tensors.table import architecture, architecture_child
from registry.tensors.table.architecture import make_table
from registry.tensors.table.architecture_facts import facts_of_component
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.shipped.facts import CLASSES, SOURCE, shipped_facts
from registry.tensors.table.targets import TargetKind
from tests.images.denoisers import made
from tests.images.real_configs import REAL, SD_15, SDXL, WAN, Z_IMAGE

Tensors = dict[str, tuple[str, tuple[int, ...]]]
RUN = architecture._run  # before `made_once` takes its place


def tensors_of(config: Mapping[str, Any]) -> Tensors:
    """The files of a model, as its config describes them."""
    facts = shipped_facts(config, {})
    assert facts is not None
    return {
        f"{name}.{key}" if name else key: ("BF16", tuple(shape))
        for name, _, _, parameters in facts["modules"]
        for key, shape in parameters
    }


def compare(model: Any) -> None:
    """Hold the shipped facts to a model of diffusers: every module, and the table of its files."""
    config = json.loads(model.to_json_string())
    files: Tensors = {name: ("F32", tuple(value.shape)) for name, value in model.state_dict().items()}
    real, shipped = facts_of_component(model, dict(files)), shipped_facts(config, files)
    assert shipped is not None
    assert _by_name(shipped) == _by_name(real)
    one, other = table_from_facts(shipped, files), table_from_facts(real, files)
    assert one.to_document() | {"source": ""} == other.to_document() | {"source": ""}
    assert one.notices == ()


def _by_name(facts: Mapping[str, Any]) -> dict[str, Any]:
    modules = {name: (kind, geometry, dict(parameters)) for name, kind, geometry, parameters in facts["modules"]}
    assert len(modules) == len(facts["modules"])
    return modules


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd-3", "flux", "flux-2", "qwen-image", "wan", "z-image"])
def test_a_small_model_is_what_its_class_makes_of_it(family: str) -> None:
    compare(made(family))


@pytest.mark.parametrize("name", REAL)
def test_a_real_model_has_its_size(name: str) -> None:
    config, parameters, count = REAL[name]
    files = tensors_of(config)
    assert (sum(math.prod(shape) for _, shape in files.values()), len(files)) == (parameters, count)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_model_is_what_its_class_makes_of_it(name: str) -> None:
    import diffusers

    config, parameters, count = REAL[name]
    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    found = list(model.parameters())
    assert (sum(value.numel() for value in found), len(found)) == (parameters, count)
    compare(model)


_COUNTS = (1, 2, 3)


def drawn(name: str, draw: random.Random) -> dict[str, Any]:
    """A small config of a class, with settings that are seldom used."""
    one = draw.choice
    if name == "UNet2DConditionModel":
        count = one(_COUNTS)
        channels = [16 * one(_COUNTS) for _ in range(count)]
        return {
            "block_out_channels": channels,
            "down_block_types": [one(("DownBlock2D", "CrossAttnDownBlock2D")) for _ in range(count)],
            "up_block_types": [one(("UpBlock2D", "CrossAttnUpBlock2D")) for _ in range(count)],
            "layers_per_block": one((1, 2, [one(_COUNTS) for _ in range(count)])),
            "transformer_layers_per_block": one((1, 2, [one(_COUNTS) for _ in range(count)])),
            "attention_head_dim": one((3, 4, [one((2, 5)) for _ in range(count)])),
            "cross_attention_dim": one((24, [one((8, 24)) for _ in range(count)])),
            "use_linear_projection": one((True, False)),
            "norm_num_groups": 8,
            "in_channels": one((4, 9)),
            "conv_in_kernel": one((1, 3, 5)),
            "time_cond_proj_dim": one((None, 12)),
            **one(({}, {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                        "projection_class_embeddings_input_dim": 40})),
        }  # fmt: skip
    double = {
        "patch_size": one((1, 2)),
        "in_channels": one((4, 12)),
        "out_channels": one((None, 8)),
        "num_layers": one(_COUNTS),
        "attention_head_dim": one((16, 32)),
        "num_attention_heads": one(_COUNTS),
        "joint_attention_dim": one((24, 40)),
    }
    match name:
        case "SD3Transformer2DModel":
            return double | {"caption_projection_dim": 24, "pooled_projection_dim": 20, "sample_size": 8,
                             "dual_attention_layers": one(([], [0], [0, 1])), "qk_norm": one((None, "rms_norm")),
                             "pos_embed_max_size": one((None, 5))}  # fmt: skip
        case "FluxTransformer2DModel":
            return double | {"num_single_layers": one(_COUNTS), "guidance_embeds": one((True, False))}
        case "Flux2Transformer2DModel":
            return double | {"num_single_layers": one(_COUNTS), "guidance_embeds": one((True, False)),
                             "mlp_ratio": one((2, 2.7, 4.0)), "timestep_guidance_channels": one((16, 48))}  # fmt: skip
        case "QwenImageTransformer2DModel":
            return double | {"use_additional_t_cond": one((True, False)), "zero_cond_t": one((True, False)),
                             "use_layer3d_rope": one((True, False)), "axes_dims_rope": [4, 6, 6]}  # fmt: skip
        case "WanTransformer3DModel":
            return {
                "patch_size": [1, one((1, 2)), 2], "num_attention_heads": one(_COUNTS), "attention_head_dim": 12,
                "in_channels": one((4, 9)), "out_channels": one((None, 4)), "text_dim": 20, "freq_dim": one((16, 32)),
                "ffn_dim": 30, "num_layers": one(_COUNTS), "cross_attn_norm": one((True, False)),
                "image_dim": one((None, 14)), "added_kv_proj_dim": one((None, 24)),
                "pos_embed_seq_len": one((None, 6)),
            }  # fmt: skip
        case _:
            heads = one(_COUNTS)
            return {
                "dim": 16 * heads + one((0, 1)) * (heads > 1), "n_heads": heads, "n_kv_heads": one((1, heads)),
                "axes_dims": [4, 6, 6], "axes_lens": [8, 8, 8], "in_channels": one((3, 4)), "n_layers": one(_COUNTS),
                "n_refiner_layers": one(_COUNTS), "qk_norm": one((True, False)), "cap_feat_dim": 20,
                **one(({}, {"all_patch_size": [2, 4], "all_f_patch_size": [1, 2]})),
            }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_drawn_models_are_what_their_class_makes_of_them(name: str) -> None:
    import diffusers

    for seed in range(12):
        config = drawn(name, random.Random(f"{name} {seed}"))
        with torch.device("meta"):
            model = getattr(diffusers, name).from_config(config)
        compare(model)


_SELDOM: list[dict[str, Any]] = [
    {"num_class_embeds": 10}, {"class_embed_type": "timestep"}, {"addition_embed_type": "text"},
    {"addition_embed_type": "image"}, {"encoder_hid_dim": 8}, {"dual_cross_attention": True},
    {"only_cross_attention": [True, True, False]}, {"resnet_time_scale_shift": "scale_shift"},
    {"mid_block_type": None}, {"mid_block_type": "UNetMidBlock2D"}, {"attention_type": "gated"},
    {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"]},
    {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, {"norm_num_groups": None},
    {"norm_num_groups": 7}, {"transformer_layers_per_block": [[1, 2], 2, 10]}, {"time_embedding_dim": 8},
    {"projection_class_embeddings_input_dim": None}, {"attention_head_dim": None},
    {"layers_per_block": [2, 2]}, {"block_out_channels": []}, {"in_channels": "4"}, {"in_channels": True},
    {"in_channels": -4}, {"in_channels": 1 << 40}, {"use_linear_projection": 1},
    {"a_setting_of_a_later_version": False},
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "change"),
    [
        *((SDXL, change) for change in _SELDOM),
        (WAN, {"qk_norm": None}),
        (WAN, {"patch_size": [2, 2]}),
        (Z_IMAGE, {"siglip_feat_dim": 1152}),
        (Z_IMAGE, {"axes_dims": [32, 48, 47]}),
        (Z_IMAGE, {"all_patch_size": [2, 2]}),
        (SD_15, {"_class_name": "UNet3DConditionModel"}),
        (SD_15, {"_class_name": ["UNet2DConditionModel"]}),
        (WAN, {"num_layers": 1 << 30}),
    ],
)
def test_what_is_not_known_is_not_said(config: dict[str, Any], change: dict[str, Any]) -> None:
    assert shipped_facts(config | change, {}) is None


def test_the_table_needs_no_diffusers_and_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_run", None)
    files = tensors_of(SDXL)
    table = make_table(SDXL, files)
    assert (table.source, table.architecture, table.notices, table.knows_kinds) == (
        SOURCE, "UNet2DConditionModel", (), True,
    )  # fmt: skip
    kinds = [target.kind for target in table.targets.values()]
    assert (kinds.count(TargetKind.LINEAR), kinds.count(TargetKind.CONV), len(kinds)) == (743, 51, 794)
    down = table.targets["down_blocks.0.downsamplers.0.conv"]
    assert down.geometry == {"kernel": [3, 3], "groups": 1, "dilation": [1, 1], "padding_mode": "zeros"}


def test_files_that_are_not_the_config_s_are_refused_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_run", None)
    files = tensors_of(SD_15)
    with pytest.raises(InvalidBaseError, match=r"conv_in\.weight has shape \[320, 9, 3, 3\]") as refused:
        make_table(SD_15, files | {"conv_in.weight": ("BF16", (320, 9, 3, 3))})
    assert refused.value.code == "shape_mismatch"
    with pytest.raises(InvalidBaseError, match="belongs to UNet2DConditionModel") as refused:
        make_table(SD_15, {"model.diffusion_model.out.2.weight": ("BF16", (4, 320, 3, 3))})
    assert refused.value.code == "architecture"
    del files["mid_block.attentions.0.proj_in.weight"]
    table = make_table(SD_15, files | {"more.weight": ("BF16", (4, 4))})
    assert [notice.partition(" (")[0] for notice in table.notices] == [
        "1 module of UNet2DConditionModel with no weights in the files",
        "1 tensor in the files not explained by UNet2DConditionModel",
    ]


SMALL_SANA = {
    "_class_name": "SanaTransformer2DModel", "in_channels": 4, "out_channels": 4, "num_attention_heads": 2,
    "attention_head_dim": 8, "num_layers": 1, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
    "cross_attention_dim": 16, "caption_channels": 8, "sample_size": 8,
}  # fmt: skip


def sana() -> Tensors:
    from diffusers import SanaTransformer2DModel

    with torch.device("meta"):
        model = SanaTransformer2DModel.from_config(SMALL_SANA)
    return {name: ("F32", tuple(value.shape)) for name, value in model.state_dict().items()}


def test_another_class_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    asked: list[str] = []

    def child(_: list[str], request: bytes, __: float) -> bytes:
        document = json.loads(request)
        asked.append(document["library"])
        return json.dumps(architecture_child.answer(document)).encode()

    monkeypatch.setattr(architecture, "_run", child)
    table = make_table(SMALL_SANA | {"quantization_config": {"quant_method": "bitsandbytes"}}, sana())
    assert (table.source, table.notices) == (f"diffusers {diffusers.__version__}", ())
    depth = table.targets["transformer_blocks.0.ff.conv_depth"]
    assert depth.geometry == {"kernel": [3, 3], "groups": 80, "dilation": [1, 1], "padding_mode": "zeros"}
    assert table.targets["transformer_blocks.0.attn1.to_q"].kind is TargetKind.LINEAR
    for name in ("NoSuchModel", "AutoModel", "FluxPipeline", "EulerDiscreteScheduler", "_internal", "a b"):
        other = make_table({"_class_name": name}, {"a.weight": ("F32", (4, 4))})
        assert (other.source, other.architecture) == ("tensor names", name)
    assert set(asked) == {"diffusers"}
    with pytest.raises(InvalidBaseError, match="integer") as refused:
        make_table(SMALL_SANA | {"num_layers": "x"}, sana())
    assert refused.value.code == "architecture"


def test_without_diffusers_another_class_is_read_by_names_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_run", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    table = make_table(SMALL_SANA, {"a.weight": ("F32", (4, 4))})
    assert (table.source, table.architecture) == ("tensor names", "SanaTransformer2DModel")
    assert "adapter-registry[diffusers]" in table.notices[0]


@pytest.mark.slow
def test_a_diffusers_that_does_not_run_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_run", RUN)
    (tmp_path / "diffusers.py").write_text("import a_package_that_nobody_has")
    packages = package_folders()
    monkeypatch.setattr(architecture, "package_folders", lambda: [str(tmp_path), *packages])
    with pytest.raises(InvalidBaseError, match=r"diffusers can't be imported .*a_package_that_nobody_has") as refused:
        make_table(SMALL_SANA, {"a.weight": ("F32", (4, 4))})
    assert refused.value.code == "architecture"


@pytest.mark.long
def test_the_child_builds_a_class_of_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_run", RUN)
    table = make_table(SMALL_SANA, sana())
    assert (table.source.partition(" ")[0], table.notices) == ("diffusers", ())
    with pytest.raises(InvalidBaseError, match="far more than the files hold"):
        make_table(SMALL_SANA | {"num_layers": 10_000_000}, sana())
