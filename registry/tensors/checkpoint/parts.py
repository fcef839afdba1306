"""The tensors of an adapter sorted by module and part, with all that needs no base model checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.key_grammar import PARAMETER, parse_key
from registry.tensors.checkpoint.variants.draft import Parts
from registry.tensors.checkpoint.variants.pairs import check_whole
from registry.tensors.elements.dtypes import FLOATS, WHOLE_NUMBERS


def sort_parts(tensors: Mapping[str, TensorEntry], modules: Collection[str] = ()) -> tuple[Parts, Parts]:
    """Sort the tensors and check what needs no base model: names, whole pairs, dtypes, sizes.

    Args:
        tensors: the tensors of the adapter by name.
        modules: names of the base's modules, for the advice on names of other dialects.

    Returns:
        The parts of adapters, and the whole parameters, by module.

    Raises:
        InvalidAdapterError: naming the tensor; the code says which rule it was.
    """
    parts: Parts = {}
    whole: Parts = {}
    for name, entry in tensors.items():
        key = parse_key(name, modules)
        sort, part = (whole, key.parameter) if key.part == PARAMETER else (parts, key.part)
        found = sort.setdefault(key.module, {})
        if part in found:
            raise _error(entry, f"says the same as {shown(found[part].name)}. Keep one of them.", "unexpected_tensor")
        found[part] = entry
    for module, found in parts.items():
        check_whole(module, found)
    for entry in _all_of(parts):
        _check_dtype(entry, FLOATS)
        if 0 in entry.shape or not entry.shape:
            raise _empty(entry)
    for entry in _all_of(whole):
        _check_dtype(entry, {*FLOATS, *WHOLE_NUMBERS})
        if 0 in entry.shape:
            raise _empty(entry)
    return parts, whole


def _all_of(found: Parts) -> Iterator[TensorEntry]:
    for entries in found.values():
        yield from entries.values()


def _error(entry: TensorEntry, why: str, code: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"Tensor {shown(entry.name)} {why}", code=code)


def _check_dtype(entry: TensorEntry, dtypes: Collection[str]) -> None:
    if entry.dtype not in dtypes:
        raise _error(entry, f"has dtype {entry.dtype}, expected one of {', '.join(FLOATS)}.", "bad_dtype")


def _empty(entry: TensorEntry) -> InvalidAdapterError:
    return _error(
        entry,
        f"has shape {entry.shape} and no matrix in it (DeepSpeed ZeRO-3 leaves such files). Gather the weights and "
        "save the adapter again.",
        "empty_tensor",
    )
