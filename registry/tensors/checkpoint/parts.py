"""The tensors of an adapter sorted by module and part, with all that needs no base model checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.coverage import saved_names
from registry.tensors.checkpoint.key_grammar import PARAMETER, parse_key
from registry.tensors.checkpoint.name_ends import NameEnds
from registry.tensors.checkpoint.variants.draft import Parts
from registry.tensors.checkpoint.variants.pairs import check_whole
from registry.tensors.checkpoint.variants.saved_modules import is_counter
from registry.tensors.files.dtypes import FLOATS
from registry.tensors.files.header import TensorEntry
from registry.tensors.files.strict_json import shown


def sort_parts(
    config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry], modules: Collection[str] = ()
) -> tuple[Parts, Parts]:
    """Sort the tensors and check what needs no base model: names, whole pairs, dtypes, sizes.

    Args:
        config: the adapter's configuration.
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
    saved = NameEnds(saved_names(config))
    for module, found in (*parts.items(), *whole.items()):
        for part, entry in found.items():
            if not is_counter(module, part, saved):
                _check_values(entry)
    return parts, whole


def _error(entry: TensorEntry, why: str, code: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"Tensor {shown(entry.name)} {why}", code=code)


def _check_values(entry: TensorEntry) -> None:
    if entry.dtype not in FLOATS:
        raise _error(entry, f"has dtype {entry.dtype}, expected one of {', '.join(FLOATS)}.", "bad_dtype")
    if 0 in entry.shape or not entry.shape:
        raise _error(
            entry,
            f"has shape {entry.shape} and no matrix in it (DeepSpeed ZeRO-3 leaves such files). Gather the weights and "
            "save the adapter again.",
            "empty_tensor",
        )
