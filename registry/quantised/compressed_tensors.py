"""compressed-tensors: floats and integers of 8 bits, integers packed into words, NVFP4, MXFP4 and MXFP8, also mixed.

A module ``X`` has ``X.weight`` or ``X.weight_packed``, and ``X.weight_scale``. Which of ``config_groups`` applies
to them follows from the tensors; patterns of names are for loaders, and are not looked at (compressed_tensors:
``compressors``, ``quantization/quant_args.py``).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from registry.errors import InvalidBaseError
from registry.files.header import MAX_DIMENSION, SIZES
from registry.files.strict_json import shown
from registry.quantised.reading import (
    SMALL,
    Codes,
    Factor,
    Grid,
    Quantised,
    Reading,
    Scale,
    StoredTensor,
    ZeroPoint,
    tensor_name,
)

_Kind = Literal["float", "mxfp8", "int", "packed", "nvfp4", "mxfp4"]
_KINDS: Final[Mapping[str, frozenset[_Kind]]] = {
    "float-quantized": frozenset({"float"}),
    "int-quantized": frozenset({"int"}),
    "naive-quantized": frozenset({"float", "int"}),
    "pack-quantized": frozenset({"packed"}),
    "nvfp4-pack-quantized": frozenset({"nvfp4"}),
    "mxfp4-pack-quantized": frozenset({"mxfp4"}),
    "mxfp8-quantized": frozenset({"mxfp8"}),
    "mixed-precision": frozenset({"float", "mxfp8", "int", "packed", "nvfp4", "mxfp4"}),  # each group has its own
    **dict.fromkeys(("dense", "fakequant"), frozenset[_Kind]()),
}
_TYPES: Final[Mapping[str, frozenset[_Kind]]] = {
    "int": frozenset({"int", "packed"}),
    "float 8": frozenset({"float", "mxfp8"}),
    "float 4": frozenset({"nvfp4", "mxfp4"}),
}
_FLOATS: Final = ("F32", "BF16", "F16")
_EXPONENTS: Final = ("U8", "F8_E8M0")
_BITS: Final = (1, 2, 4, 8)
"""Widths that all versions pack alike: others straddled words or not."""
_PARTS: Final = ("weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale")
_MARKS: Final = frozenset({*_PARTS[1:], "weight_g_idx"})
_MARLIN: Final = ("scale_packed", "meta", "bitmask", "compressed", "row_offsets")
_MOST_GROUPS: Final = 64
_ACTIVATIONS: Final = re.compile(r"(?:(?:input|output)|[qkv])_(?:scale|zero_point|global_scale)")


@dataclass(frozen=True)
class _Group:
    """The settings for weights of a group of ``config_groups``."""

    name: str = field(compare=False)
    kinds: frozenset[_Kind]
    bits: int
    symmetric: bool
    strategy: str
    group_size: int | None
    block: tuple[int, int] | None


@dataclass(frozen=True)
class _Module:
    """The tensors of one module, by the last part of their names."""

    quantised: Quantised
    name: str
    parts: Mapping[str, StoredTensor]

    def named(self, part: str) -> str:
        return tensor_name(self.name, part)

    def refuse(self, part: str, what: str, expected: str) -> InvalidBaseError:
        return self.quantised.refuse(f"tensor {shown(self.named(part))} {what}", expected)

    def expect(self, part: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> StoredTensor:
        """A part of one of these dtypes and shapes; of any shape if none is given."""
        said = " or ".join(dtypes) + (f" {' or '.join(str(list(shape)) for shape in shapes)}" if shapes else "")
        stored = self.parts.get(part)
        if stored is None:
            raise self.refuse(part, "is missing", said)
        if stored.dtype not in dtypes or (shapes and stored.shape not in shapes):
            raise self.refuse(part, f"is {stored.dtype} {list(stored.shape)}", said)
        return stored


def read(quantised: Quantised) -> Reading:
    """Read the tensors of a checkpoint of compressed-tensors.

    Raises:
        InvalidBaseError: ``quantised_base``: the configuration or a tensor is not as the library writes it, or means
            something that is not a product of what is stored.
    """
    _check_config(quantised)
    modules = list(_modules(quantised))
    groups = list(dict.fromkeys(_groups(quantised))) if modules else []
    if len(groups) > _MOST_GROUPS:
        raise quantised.refuse(f"config_groups has {len(groups)} groups that differ", f"at most {_MOST_GROUPS}")
    decoded: dict[str, Grid] = {}
    kinds: set[str] = set()
    fitting: dict[Hashable, _Group] = {}
    for module in modules:
        kind, decoded[module.named("weight")] = _decoding(module, groups, fitting)
        kinds.add(kind)
    names = {module.name for module in modules}
    return Reading(
        " ".join(["compressed-tensors", *sorted(kinds)]),
        decoded,
        frozenset(_of_activations(quantised, names)),
        tuple(_notices(quantised, names)),
    )


def _check_config(quantised: Quantised) -> None:
    """Refuse what changes the meaning of weights, quantised or not."""
    block = quantised.block
    sparsity = block.get("sparsity_config")
    kind = sparsity.get("format") if isinstance(sparsity, Mapping) else sparsity
    if kind not in (None, "dense"):
        raise quantised.refuse(f"sparsity_config has format {shown(kind)}", "null or dense")
    transform = block.get("transform_config")
    if any(transform.values()) if isinstance(transform, Mapping) else transform:
        raise quantised.refuse("transform_config says that weights are stored rotated", "no transform_config")
    if block.get("moe_sparsity_config"):
        raise quantised.refuse("moe_sparsity_config says that experts are left out", "no moe_sparsity_config")
    _format(quantised, "format", block.get("format"))


def _format(quantised: Quantised, where: str, name: object) -> frozenset[_Kind] | None:
    if name is None:
        return None
    if not isinstance(name, str) or name not in _KINDS:
        raise quantised.refuse(f"{where} is {shown(name)}", f"one of {', '.join(_KINDS)}")
    return _KINDS[name]


def _modules(quantised: Quantised) -> Iterator[_Module]:
    """The modules with codes or scales."""
    found = quantised.modules()
    for name, every in found.items():
        parts = {part: stored for part, stored in every.items() if part.startswith("weight") or part in _MARLIN}
        weight = parts.get("weight")
        if not _MARKS.intersection(parts) and not (weight is not None and weight.dtype.startswith(("F8_", "I8"))):
            continue
        module = _Module(quantised, name, parts)
        if (unknown := next((part for part in parts if part not in _PARTS), None)) is not None:
            what = "is of a format that this version does not read (sparse or Marlin)" if unknown in _MARLIN else None
            if unknown == "weight_g_idx":
                what = "gives the columns in an order of activations (actorder), which this version does not read"
            raise module.refuse(unknown, what or "stands beside a quantised weight", f"only {', '.join(_PARTS)}")
        yield module
    quantised_names = {name for name, parts in found.items() if "weight_scale" in parts}
    for name in quantised.tensors:
        owner = name.rpartition(".")[0]
        if owner.endswith(".weight") and owner.removesuffix(".weight") in quantised_names:
            raise quantised.refuse(
                f"tensor {shown(name)} stands beside a quantised weight", f"only {', '.join(_PARTS)}"
            )


def _groups(quantised: Quantised) -> Iterator[_Group]:
    groups = quantised.block.get("config_groups")
    if not isinstance(groups, Mapping):
        raise quantised.refuse(f"config_groups is {shown(groups)}", "an object of groups")
    common = _format(quantised, "format", quantised.block.get("format"))
    for key, group in groups.items():
        where = f"config_groups.{shown(key)}"
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(group, Mapping) or not isinstance(weights, Mapping | None):
            raise quantised.refuse(f"{where} is {shown(group)}", "an object with weights")
        if weights is not None:
            own = _format(quantised, f"{where}.format", group.get("format"))
            yield _group(quantised, where, weights, own if own is not None else common)


def _group(quantised: Quantised, where: str, weights: Mapping[str, Any], kinds: frozenset[_Kind] | None) -> _Group:
    def refuse(key: str, expected: str) -> InvalidBaseError:
        return quantised.refuse(f"{where}.weights.{key} is {shown(weights.get(key))}", expected)

    bits, symmetric, size = weights.get("num_bits", 8), weights.get("symmetric", True), weights.get("group_size")
    kind, order = weights.get("type", "int"), weights.get("actorder")
    if type(bits) is not int or not 1 <= bits <= 8:
        raise refuse("num_bits", "a number of bits from 1 to 8")
    if not isinstance(symmetric, bool):
        raise refuse("symmetric", "true or false")
    if size is not None and (type(size) is not int or not (size == -1 or 1 <= size <= MAX_DIMENSION)):
        raise refuse("group_size", "null, -1 or a number of columns")
    if order not in (None, False, "weight", "static"):
        raise refuse("actorder", "null, weight or static: nothing that changes the order of columns")
    if not isinstance(kind, str) or (of_type := _TYPES.get("int" if kind == "int" else f"{kind} {bits}")) is None:
        raise quantised.refuse(
            f"{where}.weights has type {shown(kind)} and num_bits {bits}", "int, or float of 4 or 8 bits"
        )
    strategy = weights.get("strategy")
    if strategy is None:
        strategy = "tensor" if size is None else "channel" if size == -1 else "group"
    if strategy not in ("tensor", "channel", "group", "tensor_group", "block"):
        raise refuse("strategy", "tensor, channel, group, tensor_group or block")
    if strategy.endswith("group") and (size is None or size < 1):
        raise refuse("group_size", f"the number of columns of a group, for strategy {strategy}")
    block = weights.get("block_structure")
    if isinstance(block, str) and re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", block):
        block = [int(part) for part in block.split("x")]
    if strategy == "block" and not (
        isinstance(block, list) and len(block) == 2 and all(type(s) is int and 1 <= s <= MAX_DIMENSION for s in block)
    ):
        raise refuse("block_structure", "[rows, columns] of a block")
    return _Group(
        where,
        of_type if kinds is None else of_type & kinds,
        bits,
        symmetric,
        strategy,
        size,
        (block[0], block[1]) if strategy == "block" and isinstance(block, list) else None,
    )


def _decoding(module: _Module, groups: list[_Group], fitting: dict[Hashable, _Group]) -> tuple[_Kind, Grid]:
    """How a module's weight is made: the one way that a group gives and its shapes allow.

    ``fitting`` keeps which group it was for modules that are alike: a model has thousands.
    """
    kind = _kind(module)
    shape = _shape(module, kind)
    alike = kind, shape, frozenset(module.parts.items())
    if alike in fitting:
        return kind, _grid(module, kind, shape, fitting[alike])
    fault: InvalidBaseError | None = None
    found: list[Grid] = []
    for group in groups:
        if kind in group.kinds:
            try:
                grid = _grid(module, kind, shape, group)
            except InvalidBaseError as problem:
                fault = fault or problem
                continue
            fitting[alike] = group
            if grid not in found:
                found.append(grid)
    if len(found) == 1:
        return kind, found[0]
    part = "weight_packed" if "weight_packed" in module.parts else "weight"
    if found:
        raise module.refuse(part, "is described by several groups of config_groups", "one that fits its shapes")
    raise fault or module.refuse(
        part, f"is {module.parts[part].dtype}, which no group of config_groups describes", "a group for it"
    )


def _kind(module: _Module) -> _Kind:
    parts = module.parts
    if "weight" in parts and "weight_packed" in parts:
        raise module.refuse("weight", "stands beside weight_packed", "one of the two")
    if "weight_packed" in parts:
        packed = module.expect("weight_packed", ("I32", "U8"))
        if packed.dtype == "I32":
            return "packed"
        return "nvfp4" if "weight_global_scale" in parts else "mxfp4"
    weight = module.expect("weight", ("F8_E4M3", "I8"))
    scale = module.expect("weight_scale", (*_FLOATS, *_EXPONENTS))
    if weight.dtype == "I8":
        return "int"
    return "mxfp8" if scale.dtype in _EXPONENTS else "float"


def _grid(module: _Module, kind: _Kind, shape: tuple[int, int], group: _Group) -> Grid:
    """The decoding of a module by the settings of a group."""
    if kind == "packed" and group.bits not in _BITS:
        raise module.refuse(
            "weight_packed", f"has codes of {group.bits} bits", "1, 2, 4 or 8, which all versions pack alike"
        )
    said: list[str] = []
    codes = _codes(module, kind, shape, group)
    if kind == "packed":
        said.append(module.named("weight_shape"))
    elif "weight_shape" in module.parts:
        raise module.refuse("weight_shape", "stands beside codes that have a shape of their own", "no weight_shape")
    block = _block(module, kind, group, shape)
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    shapes = _stored_shapes(grid)
    exponents = kind in ("mxfp4", "mxfp8")
    dtypes = _EXPONENTS if exponents else ("F8_E4M3",) if kind == "nvfp4" else _FLOATS
    module.expect("weight_scale", dtypes, *shapes)
    zero = _zero(module, kind, group, shape[0], grid)
    if zero is None and "weight_zero_point" in module.parts:
        said.append(module.named("weight_zero_point"))
    factor = None
    if kind == "nvfp4":
        module.expect("weight_global_scale", ("F32",), (), (1,))
        factor = Factor("divide", module.named("weight_global_scale"))
    elif "weight_global_scale" in module.parts:
        raise module.refuse("weight_global_scale", "stands beside codes of another format than NVFP4", "none")
    scale = Scale(module.named("weight_scale"), "exponent" if exponents else "float", block)
    return Grid(shape, codes, scale, zero, factor, said=tuple(said))


def _codes(module: _Module, kind: _Kind, shape: tuple[int, int], group: _Group) -> Codes:
    if kind == "packed":
        module.expect("weight_packed", ("I32",), (shape[0], -(-shape[1] * group.bits // 32)))
        return Codes(module.named("weight_packed"), "packed", group.bits)
    if kind in ("nvfp4", "mxfp4"):
        return Codes(module.named("weight_packed"), "e2m1", 4)
    return Codes(module.named("weight"), "int8" if kind == "int" else "float8")


def _shape(module: _Module, kind: _Kind) -> tuple[int, int]:
    """Rows and columns of the weight: (out, in)."""
    if kind == "packed":
        return _said_shape(module)
    part = "weight_packed" if kind in ("nvfp4", "mxfp4") else "weight"
    stored = module.parts[part]
    if len(stored.shape) != 2 or not all(stored.shape):
        raise module.refuse(part, f"has shape {list(stored.shape)}", "a matrix")
    rows, columns = stored.shape
    return rows, columns * 2 if kind in ("nvfp4", "mxfp4") else columns


def _said_shape(module: _Module) -> tuple[int, int]:
    """The shape of packed codes, which their words don't determine."""
    stored = module.expect("weight_shape", ("I64", "I32"), (2,))
    rows, columns = struct.unpack(
        "<2q" if stored.dtype == "I64" else "<2i", module.quantised.small(module.named("weight_shape"))
    )
    if not 1 <= rows <= MAX_DIMENSION or not 1 <= columns <= MAX_DIMENSION:
        raise module.refuse("weight_shape", f"says {[rows, columns]}", "rows and columns of a matrix")
    return rows, columns


def _block(module: _Module, kind: _Kind, group: _Group, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    columns = {"nvfp4": 16, "mxfp4": 32, "mxfp8": 32}.get(kind)
    size = group.group_size if group.strategy.endswith("group") else None
    if columns is not None and size != columns:
        raise module.refuse("weight_scale", f"is of groups of {size} by {group.name}", f"groups of {columns}")
    if size is not None:
        if shape[1] % size:
            raise module.refuse(
                "weight_scale", f"is of groups of {size}, of {shape[1]} columns", "columns of whole groups"
            )
        return 1, size
    if group.block is not None:
        return group.block
    return shape if group.strategy == "tensor" else (1, shape[1])


def _stored_shapes(grid: tuple[int, int]) -> list[tuple[int, ...]]:
    """How a grid may be stored."""
    if grid == (1, 1):
        return [(1,), (1, 1), ()]
    return [grid, grid[:1]] if grid[1] == 1 else [grid]


def _zero(module: _Module, kind: _Kind, group: _Group, rows: int, grid: tuple[int, int]) -> ZeroPoint | None:
    name, stored = module.named("weight_zero_point"), module.parts.get("weight_zero_point")
    if kind not in ("int", "packed") or group.symmetric:
        if not group.symmetric:
            raise module.refuse(
                "weight_scale", f"belongs to codes that are not symmetric by {group.name}", "symmetric floats"
            )
        if stored is not None and (
            stored.elements * SIZES[stored.dtype] > SMALL or module.quantised.small(name).strip(b"\0")
        ):
            raise module.refuse("weight_zero_point", f"is not zero, but {group.name} is symmetric", "zeros, or none")
        return None
    if stored is not None and stored.dtype == "I32" and kind == "packed" and group.strategy != "tensor":
        module.expect("weight_zero_point", ("I32",), (-(-rows * group.bits // 32), grid[1]))
        return ZeroPoint(name, "packed", group.bits)
    module.expect("weight_zero_point", ("I8", "I32") if kind == "packed" else ("I8",))
    module.expect("weight_zero_point", ("I8",), *_stored_shapes(grid))
    return ZeroPoint(name, "int8")


def _of_activations(quantised: Quantised, modules: set[str]) -> Iterator[str]:
    """Scales of activations and caches, in a quantised module or in the module that contains it."""
    owners = modules | {name.rpartition(".")[0] for name in modules}
    for name in quantised.tensors:
        owner, _, part = name.rpartition(".")
        if _ACTIVATIONS.fullmatch(part) and (owner in owners or quantised.block.get("kv_cache_scheme") is not None):
            yield name


def _notices(quantised: Quantised, modules: set[str]) -> Iterator[str]:
    ignored = quantised.block.get("ignore")
    listed = (
        [name for name in ignored if isinstance(name, str) and name in modules] if isinstance(ignored, list) else []
    )
    if listed:
        yield f"ignore lists {shown(listed[0])}, whose weight is quantised: it is decoded as the others are."
