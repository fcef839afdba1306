"""Files with drawn names, shapes and alphas: each is refused by name, or every byte of it is used where it fits."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.files.header import SIZES, Header, TensorEntry, write_header
from registry.images.adapter_file import FIELD, lora_file, made_config
from registry.images.expressions import ComputedEntry, tensors_of
from registry.images.keys import ALPHA, is_image_lora, spelled_modules
from registry.images.normal_form import normal_form

SHAPES = {
    "x_embedder": (16, 4),
    "context_embedder": (16, 8),
    "time_text_embed.timestep_embedder.linear_1": (16, 8),
    "single_transformer_blocks.0.proj_mlp": (64, 16),
    "single_transformer_blocks.0.attn.to_q": (16, 16),
    "single_transformer_blocks.0.attn.to_k": (16, 16),
    "single_transformer_blocks.0.attn.to_v": (16, 16),
    "norm_out.linear": (32, 16),
    "conv": (8, 4, 3, 3),
}
VECTORS = {f"{module}.bias": shape[:1] for module, shape in SHAPES.items()} | {"norm.weight": (16,), "norm.bias": (16,)}
SPELLED = (
    "lora_unet_single_blocks_0_linear1",
    "diffusion_model.single_blocks.0.linear1",
    "lora_unet_final_layer_adaLN_modulation_1",
    "transformer.norm_out.linear",
    "lora_transformer_conv",
    "single_blocks.0.processor.qkv_lora",
    "lora_unet_x_embedder",
    "diffusion_model.img_in",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    "transformer.nowhere",
    "transformer.norm",
    "lora_unet_",
)
ENDS = (
    ".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".alpha", ".dora_scale", ".lora_B.bias",
    ".magnitude", ".down.weight", ".up.weight", ".hada_w1_a", ".diff", ".diff_b", ".w_norm", ".set_weight",
    ".lora_mid.weight", ".lokr_w1", ".oft_blocks", "",
)  # fmt: skip
FORMS = (  # a matrix of 16 rows and columns each
    (("hada_w1_a", (16, 2)), ("hada_w1_b", (2, 16)), ("hada_w2_a", (16, 2)), ("hada_w2_b", (2, 16))),
    (("hada_w1_a", (16, 1)), ("hada_w1_b", (1, 16)), ("hada_w2_a", (16, 3)), ("hada_w2_b", (3, 16))),
    (("lokr_w1", (4, 4)), ("lokr_w2", (4, 4))),
    (("lokr_w1", (2, 4)), ("lokr_w2_a", (8, 1)), ("lokr_w2_b", (1, 4))),
    (("lokr_w1_a", (4, 1)), ("lokr_w1_b", (1, 2)), ("lokr_w2", (4, 8))),
    (("diff", (16, 16)), ("diff_b", (16,))),
    (("set_weight", (16, 16)),),
    (("diff_b", (16,)),),
)
SIZED = st.sampled_from((1, 2, 3, 4, 8, 16, 32, 48, 64, 112))
entries = st.tuples(
    st.sampled_from(SPELLED),
    st.sampled_from(ENDS),
    st.sampled_from(("F16", "BF16", "F32", "I8")),
    st.lists(SIZED, max_size=4),
)


def fitting(spelled: str, rows: int, columns: int, rank: int, alpha: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    pair = [(f"{spelled}.lora_down.weight", "F16", (rank, columns)), (f"{spelled}.lora_up.weight", "F16", (rows, rank))]
    return [*pair, *([(f"{spelled}.alpha", "F32", ())] if alpha else [])]


def whole_form(spelled: str, number: int) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(f"{spelled}.{end}", "F16", shape) for end, shape in FORMS[number]]


forms = st.builds(
    whole_form,
    st.sampled_from(["lora_transformer_single_transformer_blocks_0_attn_to_" + part for part in "qkv"]),
    st.integers(0, len(FORMS) - 1),
)
pairs = forms | st.builds(
    fitting,
    st.sampled_from(SPELLED),
    st.sampled_from((16, 32, 48, 112)),
    st.sampled_from((4, 16)),
    st.sampled_from((1, 2, 8)),
    st.booleans(),
)


CODES = {
    "alpha_invalid",
    "alpha_zero",
    "bad_dtype",
    "dora_axis_ambiguous",
    "format_unsupported",
    "incomplete_pair",
    "input_widened",
    "module_twice",
    "rank_mismatch",
    "several_components",
    "shape_mismatch",
    "unexpected_tensor",
    "unknown_target",
}


@settings(max_examples=300, deadline=None)
@given(st.lists(pairs, max_size=3), st.lists(entries, max_size=3), st.floats(width=32))
def test_a_drawn_file_is_refused_by_name_or_used_to_the_last_tensor(
    given_pairs: list[list[tuple[str, str, tuple[int, ...]]]],
    others: list[tuple[str, str, str, list[int]]],
    alpha: float,
) -> None:
    tensors = {name: (name, dtype, shape) for pair in given_pairs for name, dtype, shape in pair}
    tensors |= {f"{spelled}{end}": (f"{spelled}{end}", dtype, tuple(shape)) for spelled, end, dtype, shape in others}
    _, header = write_header(tensors.values(), {})
    if not header.entries or not is_image_lora(list(header.entries)):
        return
    form = _normal(header, alpha)
    if isinstance(form, InvalidAdapterError):
        assert form.code in CODES
        return
    covered: Counter[str] = Counter()
    for entry in (one for made in form for one in stored(made)):
        assert entry.stop - entry.start == entry.elements * SIZES[entry.dtype]
        source = next(one for one in header.entries.values() if one.start <= entry.start and entry.stop <= one.stop)
        covered[source.name] += entry.stop - entry.start
    for module in spelled_modules(header.entries).values():
        for part, name in module.parts.items():
            size = header.entries[name].stop - header.entries[name].start
            assert part == ALPHA or (covered[name] >= size and covered[name] % size == 0)


def stored(entry: TensorEntry) -> Iterator[TensorEntry]:
    """The tensors that a factor is, or is computed from, of which each slice counts for what it is of the rows."""
    if not isinstance(entry, ComputedEntry):
        yield entry
        return
    assert entry.start == entry.stop
    yield from tensors_of(entry.made)


def _normal(header: Header, alpha: float) -> list[TensorEntry] | InvalidAdapterError:
    def read(entry: TensorEntry) -> bytes:
        if entry.dtype != "F32":
            return b"\x00" * (entry.stop - entry.start)
        return struct.pack("<f", alpha) * entry.elements

    try:
        config = made_config(header, read, "drawn.safetensors")
        file = lora_file(FIELD, config[FIELD])
        assert file is not None
        found = normal_form(file, config["lora_alpha"], header.entries, SHAPES, VECTORS)
    except InvalidAdapterError as problem:
        return problem
    assert found.scales is not None
    assert len(found.alphas) == sum(name.endswith(".alpha") for name in header.entries)
    return [*found.tensors.values(), *found.added.values(), *found.replaced.values()]
