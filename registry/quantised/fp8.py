"""FP8 with scales of blocks, rows or whole tensors: ``fp8`` as DeepSeek-V3 has it, ``mxfp8``, and ``fbgemm_fp8``.

``X.weight`` is F8_E4M3 (out, in), and ``X.weight_scale_inv`` has a number for each block of it, the last ones cut. It
is named inverse, but multiplies (transformers 5.24: ``integrations/finegrained_fp8.py``). Which block a scale belongs
to is never guessed from the shape of the grid, as transformers does: 192 rows of 2 blocks are 128 and 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidBaseError
from registry.files.strict_json import shown
from registry.quantised.reading import OF_ACTIVATIONS, Codes, Grid, Quantised, Reading, Scale, StoredTensor, tensor_name

_SCALES: Final = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
"""What the scale of ``weight`` is called: by transformers, vLLM, DeepSeek-V4 and Mistral."""
_BESIDE: Final = frozenset({"weight", "bias", *_SCALES}) | OF_ACTIVATIONS
_FUSED: Final = "_scale_inv"  # of experts in one tensor, (experts, out, in)
_FLOATS: Final = ("F32", "BF16", "F16")
_EXPONENTS: Final = ("F8_E8M0", "U8")
_FP4_RUN: Final = 32
_SKIPPED: Final = ("modules_to_not_convert", "ignored_layers")
_MOST_STARS: Final = 100
_MOST_PARTS: Final = 40  # of a module's name that are compared with lists


@dataclass(frozen=True)
class _Rules:
    """The settings of the configuration."""

    block: tuple[int, int] | None  # None: a scale for each row, or one for all
    chosen: bool  # the configuration gives the block, or the absence of one
    scales: tuple[str, ...]  # dtypes
    fp4: bool  # experts may be FP4


def read(quantised: Quantised) -> Reading:
    """Read a checkpoint in FP8.

    Raises:
        InvalidBaseError: ``quantised_base``: the configuration or a tensor violates the format.
    """
    rules = _rules(quantised)
    decoded: dict[str, Grid] = {}
    dropped: set[str] = set()
    modules = quantised.modules()
    for module, parts in modules.items():
        decoded.update(_grids(quantised, module, parts, rules))
        dropped.update(tensor_name(module, part) for part in OF_ACTIVATIONS & parts.keys())
    scales = {grid.scale.name for grid in decoded.values()}
    for name, stored in quantised.tensors.items():
        if name in scales or name in dropped:
            continue
        last = name.rpartition(".")[2]
        if last.endswith("_activation_scale"):  # of experts in one tensor
            dropped.add(name)
        elif last.endswith(_FUSED) or last in ("weight_scale", "qscale_weight"):
            weight = name.removesuffix(last) + ("weight" if last in _SCALES else last.removesuffix(_FUSED))
            raise quantised.refuse(
                f"tensor {shown(name)} ({stored.dtype}) is the scale of no weight", f"{shown(weight)} of F8_E4M3"
            )
    kind = {"fbgemm_fp8": "fbgemm fp8"}.get(quantised.method, quantised.method)
    return Reading(kind, decoded, frozenset(dropped), tuple(skipped_notices(quantised, decoded, *_SKIPPED)))


def _rules(quantised: Quantised) -> _Rules:
    block = quantised.block
    if quantised.method == "fbgemm_fp8":
        return _Rules(None, chosen=True, scales=("F32",), fp4=False)
    for key, allowed in (
        ("fmt", ("e4m3", "float8_e4m3fn", "float8_e4m3")),
        ("scale_fmt", ("float", "ue8m0")),
        ("expert_dtype", ("fp8", "fp4")),
    ):
        value = block.get(key)
        if value is not None and value not in allowed:
            raise quantised.refuse(f"{key} is {shown(value)}", " or ".join(allowed))
    exponents = quantised.method == "mxfp8" or block.get("scale_fmt") == "ue8m0"
    usual = (1, 32) if quantised.method == "mxfp8" else (128, 128)
    size = block.get("weight_block_size", usual)
    if size is not None and not (
        isinstance(size, list | tuple) and len(size) == 2 and all(type(one) is int and one > 0 for one in size)
    ):
        raise quantised.refuse(f"weight_block_size is {shown(size)}", "two whole numbers above 0, or null,")
    return _Rules(
        None if size is None else (size[0], size[1]),
        chosen="weight_block_size" in block or quantised.method == "mxfp8",
        scales=(*_FLOATS, "F8_E8M0", "U8") if exponents else (*_FLOATS, "F8_E8M0"),
        fp4=block.get("expert_dtype") == "fp4",
    )


def _grids(
    quantised: Quantised, module: str, parts: Mapping[str, StoredTensor], rules: _Rules
) -> Iterator[tuple[str, Grid]]:
    """The weights of a module that are codes, by name."""
    for part, stored in parts.items():
        name = tensor_name(module, part)
        if part == "weight":
            scales = [scale for scale in _SCALES if scale in parts]
            if not stored.dtype.startswith("F8_") and (stored.dtype not in ("I8", "U8") or not scales):
                continue
            if len(scales) > 1:
                both = " and ".join(shown(tensor_name(module, scale)) for scale in scales)
                raise quantised.refuse(f"tensor {shown(name)} has two scales, {both}", "one of them")
            unknown = next((other for other in parts if other not in _BESIDE), None)
            if unknown is not None:
                what = f"tensor {shown(tensor_name(module, unknown))} lies beside the codes {shown(name)}"
                raise quantised.refuse(what, "only their scale, a bias and scales of activations")
            scale = tensor_name(module, scales[0] if scales else _SCALES[0])
        elif part in _SCALES or part.endswith(_FUSED):
            continue
        elif stored.dtype in ("F8_E4M3", "F8_E5M2") or (stored.dtype == "I8" and f"{part}{_FUSED}" in parts):
            scale = name + _FUSED  # of experts in one tensor
        else:
            continue
        found = quantised.tensors.get(scale)
        if found is None:
            raise quantised.refuse(f"tensor {shown(name)} ({stored.dtype}) has no scale", f"{shown(scale)}")
        yield name, _grid(quantised, (name, stored), (scale, found), rules)


def _grid(
    quantised: Quantised, codes: tuple[str, StoredTensor], scale: tuple[str, StoredTensor], rules: _Rules
) -> Grid:
    (name, stored), (scale_name, found) = codes, scale
    fp4 = rules.fp4 and stored.dtype in ("I8", "U8")
    if not fp4 and stored.dtype != "F8_E4M3":
        raise quantised.refuse(f"tensor {shown(name)} is {stored.dtype}", "F8_E4M3")
    if found.dtype not in rules.scales:
        raise quantised.refuse(f"tensor {shown(scale_name)} is {found.dtype}", " or ".join(rules.scales))
    fused = not name.endswith("weight")
    if len(stored.shape) != (3 if fused else 2):
        expected = "(experts, out, in)" if fused else "a matrix"
        raise quantised.refuse(f"tensor {shown(name)} has shape {list(stored.shape)}", expected)
    shape = (*stored.shape[:-1], stored.shape[-1] * (2 if fp4 else 1))
    kinds = _fused_blocks(name, shape, rules) if fused else dict(_blocks(shape, rules, scale_name))
    if fp4:
        kinds = {} if shape[-1] % _FP4_RUN else {(*shape[:-1], shape[-1] // _FP4_RUN): (1, _FP4_RUN)}
    block = kinds.get(found.shape)
    if block is None:
        raise _misshapen(quantised, (name, shape), (scale_name, found.shape), tuple(kinds))
    read = Scale(scale_name, "exponent" if found.dtype in _EXPONENTS else "float", block)
    return Grid(shape, Codes(name, "e2m1", 4) if fp4 else Codes(name, "float8"), read)


def _blocks(shape: tuple[int, ...], rules: _Rules, scale: str) -> Iterator[tuple[tuple[int, ...], tuple[int, int]]]:
    """The shapes that the scale of a matrix may have, and the block of each."""
    rows, columns = shape
    whole, row = (max(1, rows), max(1, columns)), (1, max(1, columns))
    if rules.block is None or not rules.chosen:
        yield (rows, 1), row
        yield (rows,), row
        if rules.scales != ("F32",):  # fbgemm's are of rows
            yield from (((1, 1), whole), ((1,), whole), ((), whole))
    elif scale.endswith("weight_scale"):  # of an embedding, which has no blocks
        yield from (((1,), whole), ((), whole))
    if rules.block is not None:
        down, across = rules.block
        yield (-(-rows // down), -(-columns // across)), rules.block


def _fused_blocks(name: str, shape: tuple[int, ...], rules: _Rules) -> dict[tuple[int, ...], tuple[int, int]]:
    """The same of experts in one tensor: gate and up have grids of their own, one below the other."""
    experts, rows, columns = shape
    halves = 2 if name.endswith("gate_up_proj") else 1
    if rows % halves:
        return {}
    down, across = (max(1, rows // halves), max(1, columns)) if rules.block is None else rules.block
    if halves == 2 and rows // 2 % down:
        return {}  # a block would lie in both
    return {(experts, -(-rows // down), -(-columns // across)): (down, across)}


def _misshapen(
    quantised: Quantised,
    codes: tuple[str, tuple[int, ...]],
    scale: tuple[str, tuple[int, ...]],
    expected: tuple[tuple[int, ...], ...],
) -> InvalidBaseError:
    """The error for a scale whose shape is not that of the grid."""
    listed = " or ".join(str(list(shape)) for shape in dict.fromkeys(expected)) or "blocks that the rows consist of"
    what = f"tensor {shown(scale[0])} has shape {list(scale[1])} for {shown(codes[0])} of shape {list(codes[1])}"
    return quantised.refuse(what, listed)


def skipped_notices(quantised: Quantised, decoded: Mapping[str, object], *fields: str) -> Iterator[str]:
    """Notices where the list of modules to leave out and the tensors disagree: the tensors are right.

    Entries are names, their first or last parts, or, with a star at the end, how names begin.
    """
    listed = quantised.names(*fields)
    exact = {entry for entry in listed if "*" not in entry}
    begins = tuple(entry[:-1] for entry in listed if entry.endswith("*") and "*" not in entry[:-1])[:_MOST_STARS]

    def skipped(module: str) -> bool:
        parts = module.split(".")[:_MOST_PARTS]
        ends = (".".join(parts[at:]) for at in range(len(parts)))
        return module.startswith(begins) or not exact.isdisjoint(
            [*(".".join(parts[:at]) for at in range(1, len(parts) + 1)), *ends]
        )

    modules = [name.removesuffix(".weight") for name in decoded]
    said = [module for module in modules if skipped(module)]
    if said:
        yield (
            f"The list {fields[0]} names modules that are quantised ({len(said)}, such as {shown(said[0])}): they are "
            "decoded, as their tensors say."
        )
    kinds = {module.rpartition(".")[2] for module in modules}
    dense = [
        module
        for name, stored in quantised.tensors.items()
        if (module := name.removesuffix(".weight")) != name and name not in decoded and len(stored.shape) == 2
        if module.rpartition(".")[2] in kinds and not skipped(module)
    ]
    if dense:
        yield (
            f"Modules are stored unquantised that {fields[0]} does not name ({len(dense)}, such as {shown(dense[0])}): "
            "they are taken as they are."
        )
