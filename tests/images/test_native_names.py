"""The tables of native names, held to diffusers' converters of checkpoints on every row of every module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from registry.images.native_names import FAMILIES, family_of
from tests.images.denoisers import made, weights_of

Tensors = dict[str, torch.Tensor]


def norms_of(own: Tensors) -> Tensors:
    """The norms of FLUX' attention, without which its converters stop."""
    found = {}
    for name, value in own.items():
        double = re.fullmatch(r"transformer_blocks\.(\d+)\.attn\.norm_(added_)?([qk])\.weight", name)
        single = re.fullmatch(r"single_transformer_blocks\.(\d+)\.attn\.norm_([qk])\.weight", name)
        if double is not None:
            stream = "txt" if double[2] else "img"
            which = "query" if double[3] == "q" else "key"
            found[f"double_blocks.{double[1]}.{stream}_attn.norm.{which}_norm.scale"] = value
        elif single is not None:
            which = "query" if single[2] == "q" else "key"
            found[f"single_blocks.{single[1]}.norm.{which}_norm.scale"] = value
    return found


def converted(family: str, native: Tensors, own: Tensors, config: Mapping[str, Any]) -> Tensors:
    from diffusers.loaders import single_file_utils as files

    if family in ("sd", "sdxl"):
        of_unet = {f"model.diffusion_model.{name}": value for name, value in native.items()}
        return dict(files.convert_ldm_unet_checkpoint(of_unet, config))
    if family == "sd-3":
        return dict(
            files.convert_sd3_transformer_checkpoint_to_diffusers(native | {"pos_embed": own["pos_embed.pos_embed"]})
        )
    convert: Callable[[Tensors], Tensors] = {
        "flux": files.convert_flux_transformer_checkpoint_to_diffusers,
        "flux-2": files.convert_flux2_transformer_checkpoint_to_diffusers,
        "wan": files.convert_wan_transformer_to_diffusers,
        "z-image": files.convert_z_image_transformer_checkpoint_to_diffusers,
    }[family]
    return convert(native | (norms_of(own) if family.startswith("flux") else {}))


@pytest.mark.parametrize(
    "family", ["sd", "sdxl", "sd-3", pytest.param("flux", marks=pytest.mark.slow), "flux-2", "wan", "z-image"]
)
def test_every_row_of_every_module_is_where_diffusers_puts_it(family: str) -> None:
    # FLUX' converter knows no other width than the real one
    model = made(family, inner=3072, layers=1) if family == "flux" else made(family)
    modules = weights_of(model)
    table = family_of(modules)
    assert table is not None
    drawn = torch.Generator().manual_seed(5)
    own = {name: torch.randn(value.shape, generator=drawn) for name, value in model.state_dict().items()}
    native: Tensors = {}
    named = set()
    for name, found in table.names(modules):
        if ".processor." in name:  # XLabs': no module of the model
            continue
        for leaf in ("weight", "bias"):
            rows = [own[f"{module}.{leaf}"] for module in found if f"{module}.{leaf}" in own]
            if not rows:
                continue
            joined = torch.cat(rows)
            if name in table.swapped:
                joined = torch.cat(joined.chunk(2)[::-1])
            assert f"{name}.{leaf}" not in native
            native[f"{name}.{leaf}"] = joined
            named |= {f"{module}.{leaf}" for module in found}
    out = converted(family, dict(native), own, dict(model.config))
    assert named
    assert [name for name in sorted(named) if name not in out or not torch.equal(out[name], own[name])] == []
    same = {module for module in modules if f"{module}.weight" not in named}  # called the same in both
    assert all(module.split(".")[0] in ("layers", "noise_refiner", "context_refiner", "cap_embedder", "t_embedder")
               for module in same)  # fmt: skip
    assert family == "z-image" or not same


def test_a_denoiser_is_of_one_family() -> None:
    for family in ("sd", "sdxl", "sd-3", "flux", "flux-2", "qwen-image", "wan", "z-image"):
        modules = weights_of(made(family))
        assert sum(one.fits(modules) for one in FAMILIES) == 1
    assert family_of({"model.layers.0.self_attn.q_proj": ()}) is None


def test_no_two_names_of_a_model_flatten_to_one() -> None:
    for family in ("sd", "sdxl", "sd-3", "flux", "flux-2", "wan", "z-image"):
        modules = weights_of(made(family))
        table = family_of(modules)
        assert table is not None
        native = dict(table.names(modules))
        flat: dict[str, tuple[str, ...]] = {}
        for name, found in [*native.items(), *((module, (module,)) for module in modules)]:
            assert flat.setdefault(name.replace(".", "_"), found) == found
