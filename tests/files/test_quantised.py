"""Names and dtypes that mark quantised weights, as their libraries write them, and names of nets that look alike."""

from __future__ import annotations

import pytest

from registry.files.header import TensorEntry
from registry.folders.quantised import is_quantised

LAYER = "model.layers.0.mlp.down_proj"
EXPERTS = "model.layers.0.mlp.experts"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # bitsandbytes: 4 bits, the same of fused experts, 8 bits
        (f"{LAYER}.weight", "U8"),
        (f"{LAYER}.weight.absmax", "U8"),
        (f"{LAYER}.weight.nested_absmax", "F32"),
        (f"{LAYER}.weight.quant_map", "F32"),
        (f"{LAYER}.weight.nested_quant_map", "F32"),
        (f"{LAYER}.weight.quant_state.bitsandbytes__nf4", "U8"),
        (f"{EXPERTS}.gate_up_proj.absmax", "U8"),
        (f"{LAYER}.weight", "I8"),
        (f"{LAYER}.SCB", "F32"),
        (f"{LAYER}.weight_format", "U8"),
        # GPTQ and AWQ
        (f"{LAYER}.qweight", "I32"),
        (f"{LAYER}.qzeros", "I32"),
        (f"{LAYER}.g_idx", "I32"),
        # MXFP4 (gpt_oss)
        (f"{EXPERTS}.gate_up_proj_blocks", "U8"),
        (f"{EXPERTS}.gate_up_proj_scales", "U8"),
        (f"{EXPERTS}.down_proj_scales", "F8_E8M0"),
        # fp8: of linears and of fused experts
        (f"{LAYER}.weight", "F8_E4M3"),
        (f"{LAYER}.weight_scale_inv", "F32"),
        (f"{EXPERTS}.gate_up_proj_scale_inv", "U8"),
        (f"{LAYER}.scale", "U8"),
        (f"{LAYER}.qscale_weight", "F32"),
        # compressed-tensors, ModelOpt's NVFP4, EETQ
        (f"{LAYER}.weight_packed", "I32"),
        (f"{LAYER}.weight_shape", "I64"),
        (f"{LAYER}.weight_zero_point", "I8"),
        (f"{LAYER}.weight_scale", "BF16"),
        (f"{LAYER}.weight_scale_2", "F32"),
        (f"{LAYER}.weight_global_scale", "F32"),
        (f"{LAYER}.weight_scales", "F16"),
        (f"{LAYER}.weight", "F4"),
        # HQQ, torchao, quanto, AQLM, mlx
        (f"{LAYER}.W_q", "U8"),
        (f"{LAYER}._weight_qdata", "I8"),
        (f"{LAYER}.weight._data", "I8"),
        (f"{LAYER}.weight._scale", "F32"),
        (f"{LAYER}.codes", "I8"),
        (f"{LAYER}.weight", "U32"),
        ("qweight", "I32"),
    ],
)
def test_marks(name: str, dtype: str) -> None:
    assert is_quantised(TensorEntry(name, dtype, (2, 2), 0, 16))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # the UNet of Stable Diffusion, and nets of transformers
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", "F16"),
        ("mid_block.resnets.0.conv1.weight", "F16"),
        ("up_blocks.1.resnets.0.time_emb_proj.bias", "F32"),
        ("encoder.fpn_blocks.0.conv1.conv.weight", "F32"),  # rt_detr
        ("encoder.conv_blocks.0.conv_a.weight", "F32"),  # superpoint
        ("neck.top_down_blocks.0.conv.weight", "F32"),  # slanet
        ("conditioning_encoder.mel_attn_blocks.0.q_proj.weight", "F32"),  # clvp
        ("acoustic_decoder.block.0.res_scales.weight", "F32"),
        # the whole name of a float parameter, and what only begins like a mark
        ("model.layers.0.layer_scales", "F32"),
        ("model.layers.0.norm.scale", "BF16"),  # gemma4, inkling2
        ("model.layers.0.input_scale", "F32"),  # quantisers keep it beside codes only
        ("model.memory_blocks", "F32"),
        ("model.codes", "F32"),
        ("model.weight_scale_norm.weight", "F32"),
        ("model.quant_mapper.weight", "F32"),
        ("model.SCB.weight", "F32"),
        ("model.absmax_pool.weight", "F32"),
        ("model.g_idx_embed.weight", "F32"),
        ("model.my_absmax", "F32"),
        ("model.qweight_norm", "F32"),
        # integers that any model has
        ("transformer.h.0.attn.bias", "U8"),
        ("embeddings.position_ids", "I64"),
        ("bn.num_batches_tracked", "I64"),
        (f"{LAYER}.weight", "BF16"),
        (f"{LAYER}.weight", "F64"),
    ],
)
def test_names_of_nets_that_are_not_quantised(name: str, dtype: str) -> None:
    assert not is_quantised(TensorEntry(name, dtype, (2, 2), 0, 16))
