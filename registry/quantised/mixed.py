"""Mixed models: a quantised base whose changed weights are dense, and all others byte for byte as they are stored.

Nothing that a path changed is rounded to codes, and nothing else grows. Engines load projections that they fuse as one
weight, so those become dense together; what is dense is named in the list of modules that the loader is not to convert.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.files.header import Header, write_header
from registry.quantised.listing import QUANTISED_KEYS, PlainListing

_TOGETHER: Final = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("w1", "w3"),
)
"""Modules beside each other that engines load as one weight (vLLM's and SGLang's stacked parameters)."""

_EXPERTS: Final = "experts"
_SKIPPED: Final[Mapping[str, str]] = {"bitsandbytes": "llm_int8_skip_modules", "compressed-tensors": "ignore"}
"""quant_method -> the field of its block that lists what is not converted; others have one of `_OTHERS`."""
_OTHERS: Final = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")
_MODELOPT: Final = "quantization"
"""The object of hf_quant_config.json; its list is ``exclude_modules``, and ``ignore`` in a config.json of ModelOpt."""


@dataclass(frozen=True)
class MixedFile:
    """A file of a mixed model: its layout, and which of its tensors are plain ones that were codes."""

    lead: bytes
    header: Header
    dense: frozenset[str]


def dense_with(changed: Collection[str], listing: PlainListing) -> frozenset[str]:
    """The decoded tensors that are dense where some plain tensors change: those among them, and what lies with them."""
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in listing.decoded:
        groups[_group(name)].add(name)
    return frozenset(one for name in changed if name in listing.decoded for one in groups[_group(name)])


def _group(name: str) -> tuple[str, ...]:
    parts = name.split(".")
    if _EXPERTS in parts:
        return tuple(parts[: parts.index(_EXPERTS) + 1])
    leaf = parts[-2] if len(parts) > 1 else ""
    together = next((group for group in _TOGETHER if leaf in group), None)
    return (*parts[:-2], *together) if together else tuple(parts)


def mixed_files(listing: PlainListing, headers: Mapping[str, Header], dense: Collection[str]) -> dict[str, MixedFile]:
    """The files of a mixed model, by the names of the stored ones; one that has no tensor left is not there.

    Args:
        listing: of the base model.
        headers: of its stored weight files.
        dense: the decoded tensors that are dense, by their plain names.
    """
    of = {part: name for name, decoding in listing.decoded.items() for part in decoding.parts}
    first = {decoding.parts[0] for decoding in listing.decoded.values()}
    files = {}
    for path, header in headers.items():
        kept: list[tuple[str, str, tuple[int, ...]]] = []
        made = set()
        for entry in header.entries.values():
            plain = of.get(entry.name)
            if plain in dense and plain is not None:
                if entry.name in first:
                    kept.append((plain, listing.dtype, listing.tensors[plain].shape))
                    made.add(plain)
            elif plain is not None or entry.name in listing.tensors or not _beside(entry.name, dense):
                kept.append((entry.name, entry.dtype, entry.shape))
        if kept:
            files[path] = MixedFile(*write_header(kept, header.metadata), frozenset(made))
    return files


def _beside(name: str, dense: Collection[str]) -> bool:
    """Whether a companion, such as the scale of an input, is of a module that is dense."""
    return f"{name.rpartition('.')[0]}.weight" in dense


def skipping(config: Mapping[str, Any], dense: Iterable[str], others: Iterable[str]) -> dict[str, Any]:
    """A configuration whose lists of modules that are not converted have more.

    Args:
        config: config.json, or ModelOpt's hf_quant_config.json.
        dense: names of modules that became dense.
        others: those of the linear layers that always were: a list that is there replaces a loader's default.
    """
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and (key in QUANTISED_KEYS or key == _MODELOPT):
            changed[key] = _longer(key, value, list(dense), list(others))
        else:
            changed[key] = skipping(value, dense, others) if isinstance(value, Mapping) else value
    return changed


def _longer(where: str, block: Mapping[str, Any], dense: list[str], others: list[str]) -> dict[str, Any]:
    there = [key for key in _OTHERS if key in block]
    method = str(block.get("quant_method", ""))
    usual = "exclude_modules" if where == _MODELOPT else "ignore" if method.startswith("modelopt") else _OTHERS[0]
    fields = [_SKIPPED[method]] if method in _SKIPPED else there or [usual]
    longer = {key: list(_merged(block.get(key), dense, others)) for key in fields}
    return {**block, **longer}


def _merged(listed: object, dense: list[str], others: list[str]) -> Iterator[str]:
    known = [str(one) for one in listed] if isinstance(listed, list) else others
    yield from dict.fromkeys([*known, *dense])
