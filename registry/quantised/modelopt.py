"""NVIDIA ModelOpt: FP8, NVFP4, MXFP8 and INT8, as given by its ``quant_algo`` and confirmed by each module's tensors.

A module has ``X.weight`` and ``X.weight_scale``; NVFP4 also ``X.weight_scale_2``, which *multiplies* where
compressed-tensors divides by its global scale (modelopt 0.47: ``torch/quantization/qtensor``, ``torch/export``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from registry.files.strict_json import shown
from registry.quantised.fp8 import skipped_notices
from registry.quantised.reading import (
    OF_ACTIVATIONS,
    Codes,
    Factor,
    Grid,
    Quantised,
    Reading,
    Scale,
    StoredTensor,
    tensor_name,
)

_Kind = Literal["fp8", "fp8 per channel", "fp8 blocks", "nvfp4", "mxfp8", "int8"]
_ALGORITHMS: Final[Mapping[str, _Kind]] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8 per channel",
    "FP8_PB_WO": "fp8 blocks",
    "FP8_PB_REAL": "fp8 blocks",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "MXFP8": "mxfp8",
    "INT8": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
}
_BLOCK: Final = (128, 128)
_FLOATS: Final = ("F32", "BF16", "F16")
_BESIDE: Final = frozenset({"weight", "bias", "weight_scale", "weight_scale_2"}) | OF_ACTIVATIONS
_SKIPPED: Final = ("exclude_modules", "ignore")


def read(quantised: Quantised) -> Reading:
    """Read a checkpoint of ModelOpt.

    Raises:
        InvalidBaseError: ``quantised_base``: its algorithm is not read, or a tensor does not fit the algorithm.
    """
    allowed = _allowed(quantised)
    decoded: dict[str, Grid] = {}
    dropped: set[str] = set()
    kinds: set[str] = set()
    for module, parts in quantised.modules().items():
        dropped.update(tensor_name(module, part) for part in OF_ACTIVATIONS & parts.keys())
        scaling = [part for part in parts if part.startswith("weight_scale") or part == "pre_quant_scale"]
        weight = parts.get("weight")
        if not scaling and (weight is None or weight.dtype not in ("F8_E4M3", "F8_E5M2", "U8", "I8")):
            continue
        unknown = next((part for part in parts if part not in _BESIDE), None)
        if unknown is not None:
            what = f"tensor {shown(tensor_name(module, unknown))} lies beside its codes"
            smooth = " and changes what they mean" if unknown == "pre_quant_scale" else ""
            raise quantised.refuse(what + smooth, "only weight_scale, weight_scale_2, a bias and scales of activations")
        for part in ("weight", "weight_scale"):
            if part not in parts:
                there = tensor_name(module, "weight" if part != "weight" else scaling[0])
                raise quantised.refuse(
                    f"tensor {shown(there)} has no {part} beside it", shown(tensor_name(module, part))
                )
        kind = _kind(quantised, module, parts)
        if kind not in allowed:
            what = f"tensor {shown(tensor_name(module, 'weight'))} is {kind} by its scales"
            raise quantised.refuse(what, f"{' or '.join(sorted(allowed))} by quant_algo")
        decoded[tensor_name(module, "weight")] = _grid(quantised, module, parts, kind)
        kinds.add(kind)
    notices = skipped_notices(quantised, decoded, *_SKIPPED)
    return Reading(" ".join(["modelopt", *sorted(kinds)]), decoded, frozenset(dropped), tuple(notices))


def _allowed(quantised: Quantised) -> frozenset[_Kind]:
    """What the configuration lets the weights be."""
    algorithm = quantised.block.get("quant_algo")
    if algorithm != "MIXED_PRECISION":
        return frozenset({_named(quantised, "quant_algo", algorithm)})
    layers = quantised.block.get("quantized_layers")
    if not isinstance(layers, Mapping) or not layers:
        raise quantised.refuse(f"quant_algo is MIXED_PRECISION and quantized_layers is {shown(layers)}", "layers")
    found: set[_Kind] = set()
    for layer, said in layers.items():
        found.add(
            _named(
                quantised,
                f"quant_algo of {shown(layer)}",
                said.get("quant_algo") if isinstance(said, Mapping) else said,
            )
        )
    return frozenset(found)


def _named(quantised: Quantised, where: str, algorithm: Any) -> _Kind:
    kind = _ALGORITHMS.get(algorithm.upper()) if isinstance(algorithm, str) else None
    if kind is None:
        raise quantised.refuse(f"{where} is {shown(algorithm)}", f"one of {', '.join(_ALGORITHMS)}")
    return kind


def _kind(quantised: Quantised, module: str, parts: Mapping[str, StoredTensor]) -> _Kind:
    """What a module's tensors are, by their dtypes and the shape of the scales."""
    weight, scale = parts["weight"], parts["weight_scale"]
    if len(weight.shape) != 2:
        raise quantised.refuse(
            f"tensor {shown(tensor_name(module, 'weight'))} has shape {list(weight.shape)}", "a matrix"
        )
    pair = (weight.dtype, scale.dtype)
    if weight.dtype == "U8" and scale.dtype == "F8_E4M3":
        return "nvfp4"
    if pair == ("F8_E4M3", "U8"):
        return "mxfp8"
    if weight.dtype == "I8" and scale.dtype in _FLOATS:
        return "int8"
    if weight.dtype == "F8_E4M3" and scale.dtype in _FLOATS:
        if scale.elements == 1 and len(scale.shape) <= 1:
            return "fp8"
        return "fp8 per channel" if scale.shape in _of_rows(weight.shape[0]) else "fp8 blocks"
    raise quantised.refuse(
        f"tensor {shown(tensor_name(module, 'weight'))} is {pair[0]} and its weight_scale {pair[1]}",
        "F8_E4M3 with floats or U8, U8 with F8_E4M3, or I8 with floats",
    )


def _grid(quantised: Quantised, module: str, parts: Mapping[str, StoredTensor], kind: _Kind) -> Grid:
    weight, scale = parts["weight"], parts["weight_scale"]
    rows, columns = weight.shape[0], weight.shape[1] * (2 if kind == "nvfp4" else 1)
    name, named = tensor_name(module, "weight"), tensor_name(module, "weight_scale")
    run = {"nvfp4": 16, "mxfp8": 32}.get(kind, 1)
    grid = (-(-rows // _BLOCK[0]), -(-columns // _BLOCK[1]))
    grids: dict[_Kind, tuple[tuple[int, int], tuple[tuple[int, ...], ...]]] = {
        "fp8": ((max(1, rows), max(1, columns)), ((), (1,))),
        "fp8 per channel": ((1, max(1, columns)), _of_rows(rows)),
        "fp8 blocks": (_BLOCK, (grid, (1, *grid), (grid[0], 1, grid[1]), (grid[0], 1, grid[1], 1))),
        "nvfp4": ((1, 16), ((rows, columns // 16),)),
        "mxfp8": ((1, 32), ((rows, columns // 32),)),
        "int8": ((1, max(1, columns)), _of_rows(rows)),
    }
    block, expected = grids[kind]
    if scale.shape not in expected or columns % run:
        raise quantised.refuse(
            f"tensor {shown(named)} has shape {list(scale.shape)} for {shown(name)} of shape {list(weight.shape)}",
            " or ".join(str(list(shape)) for shape in expected),
        )
    factor = None
    second, found = tensor_name(module, "weight_scale_2"), parts.get("weight_scale_2")
    if kind == "nvfp4":
        if found is None or found.dtype != "F32" or found.elements != 1:
            said = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise quantised.refuse(f"tensor {shown(second)} is {said}", "one number of F32")
        factor = Factor("multiply", second)
    elif found is not None:
        raise quantised.refuse(f"tensor {shown(second)} lies beside {kind}", "no second scale")
    codes = Codes(name, {"nvfp4": "e2m1", "int8": "int8"}.get(kind, "float8"), 4 if kind == "nvfp4" else 8)  # type: ignore[arg-type]
    return Grid((rows, columns), codes, Scale(named, "exponent" if kind == "mxfp8" else "float", block), factor=factor)


def _of_rows(rows: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of a scale for each row."""
    return (rows,), (rows, 1)
