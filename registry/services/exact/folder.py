"""The publish folder of a full fine-tune: its exact file, the model's other files, and whether it fits."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidAdapterError, UnavailableError
from registry.figures import size
from registry.files.header import TensorEntry, Tensors
from registry.files.source import ByteSource
from registry.files.strict_json import MAX_SETTINGS, parse, shown
from registry.folders.local_files import ErrorMapping, telling_unreadable, unwritable
from registry.folders.scan import ADAPTER_CONFIG, EXACT_WEIGHTS, MODEL_CONFIG, FoundFile
from registry.progress import Progress
from registry.schemas import LeftOut
from registry.services.exact.model_folder import FullFolder, check_values, no_change, open_tensors
from registry.tensors.checkpoint.adapter import Checkpoint, LoraAdapterConfig
from registry.tensors.exact.contents import Changed, changed_tensors, estimated_size, write_exact
from registry.tensors.exact.file_format import ExactIndex, read_index
from registry.tensors.exact.fit import check_fit, shapes_in
from registry.tensors.lineage.inputs import base_weights
from registry.tensors.lineage.paths import Blobs, LoadedPath, read_document, target_table
from registry.tensors.table.targets import TargetTable
from registry.transfer.index import plain_of

MAX_CONFIG: Final = 8 << 20


def exact_config(data: bytes) -> LoraAdapterConfig:
    """The model's config.json in the place of an adapter's configuration: it describes no pairs.

    Raises:
        InvalidAdapterError: ``bad_config``.
    """
    document = parse(
        data,
        what=MODEL_CONFIG,
        limit=MAX_CONFIG,
        error=InvalidAdapterError,
        code="bad_config",
        brackets=MAX_SETTINGS,
    )
    if not isinstance(document, dict):
        raise InvalidAdapterError(f"{MODEL_CONFIG} is not a JSON object.", code="bad_config")
    if document.get("quantization_config"):
        raise InvalidAdapterError(
            f"{MODEL_CONFIG} says that the model is quantised (quantization_config): publish the weights that it was "
            "quantised from.",
            code="bad_config",
        )
    return LoraAdapterConfig(document=document, r=0, lora_alpha=0)


def as_checkpoint(config: LoraAdapterConfig) -> Checkpoint:
    """What a full fine-tune does as an adapter: nothing."""
    return Checkpoint(config, pairs={}, values={}, tokens={}, copies={}, notices=())


def fitting_index(blobs: Blobs, parent: LoadedPath, weights: ByteSource, config: LoraAdapterConfig) -> ExactIndex:
    """The index of an exact file, which fits the base model of its parent.

    Raises:
        InvalidAdapterError: ``bad_exact``, ``quantised_base``, or what `registry.tensors.exact.fit.check_fit` raises.
    """
    index = read_index(weights, what=EXACT_WEIGHTS, error=InvalidAdapterError)
    found = {name: (entry.dtype, entry.shape) for name, entry in index.entries.items()}
    document = read_document(blobs, parent.base.index)
    if plain_of(document) is not None:
        raise InvalidAdapterError(
            f"{parent.base.name} is a quantised base model, and a full fine-tune is kept as what differs from the "
            "bytes of an unquantised one. Add the model that it was made from and publish under that, or publish what "
            "training changed as an adapter: --full --rank N.",
            code="quantised_base",
        )
    base = shapes_in(document)
    check_fit(found, base, target_table(blobs, parent.base), config.document)
    return index


_MARKS: Final = {EXACT_WEIGHTS, ADAPTER_CONFIG}
"""What would be taken for the weights or the configuration of what is published."""


@dataclass(frozen=True)
class ExactFolder:
    """A publish folder that was written, in figures."""

    tensors: int
    of: int  # tensors of the base model
    changed: int  # bytes of the changed tensors
    estimated: int  # bytes that they were to take, by samples
    size: int  # bytes of the exact file
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Beside:
    """A full model and its base model, both open: the tensors of both by the base's names."""

    config: Mapping[str, Any]
    found: Tensors
    base: Tensors
    table: TargetTable

    def changed(self, progress: Progress) -> list[Changed]:
        """The tensors that are not the base's, bit for bit.

        Raises:
            InvalidAdapterError: what `registry.tensors.exact.fit.check_fit` raises.
        """
        progress.begin("Comparing with the base model", sum(one.stop - one.start for _, one in self.found.values()))
        changed = list(changed_tensors(self.found, self.base, progress.advance))
        found = _shapes({one.name: self.found[one.name] for one in changed})
        check_fit(found, _shapes(self.base), self.table, self.config)
        return changed


def write_exact_folder(blobs: Blobs, base: LoadedPath, full: FullFolder, out: Path, progress: Progress) -> ExactFolder:
    """Write what is published of a full fine-tune.

    Args:
        blobs: where the base model's files are.
        base: the path of the base model alone.
        full: the folder of the model.
        out: an empty folder.
        progress: of the comparison, then of the compression; its title gives the expected cost.

    Raises:
        InvalidAdapterError: ``missing_file``, it has no config.json; ``incomplete_model``, tensors are missing; or
            what `registry.tensors.exact.fit.check_fit` and `check_values` raise.
        InvalidAdapterError: ``no_change``: its tensors are the base model's, bit for bit.
        UnavailableError: ``out`` has too little space.
    """
    with ExitStack() as opened:
        beside = open_beside(blobs, base, full, opened)
        changed = beside.changed(progress)
        if not changed:
            raise no_change(base)
        progress.begin("Checking the changed tensors", sum(one.size for one in changed))
        for one in changed:
            check_values(one.source, one.entry, progress.advance)
        total, estimated = sum(one.size for one in changed), estimated_size(changed)
        _check_space(out, estimated)
        progress.begin(f"Compressing {len(changed)} tensors of {size(total)} to about {size(estimated)}", total)
        with ErrorMapping(unwritable, out), (out / EXACT_WEIGHTS).open("xb") as file:
            write_exact(changed, file, progress.advance)
        marks = [found for found in full.others if found.path.partition("/")[0] in _MARKS]
        _copy((found for found in full.others if found not in marks), out)
        written = (out / EXACT_WEIGHTS).stat().st_size
        left_out = full.left_out(marks, "marks another kind of revision")
        return ExactFolder(len(changed), len(beside.base), total, estimated, written, left_out)


def open_beside(blobs: Blobs, base: LoadedPath, full: FullFolder, opened: ExitStack) -> Beside:
    """Open a full model, and the path of its base model alone; ``opened`` closes both.

    Raises:
        InvalidAdapterError: ``missing_file``, it has no config.json; ``incomplete_model``, tensors are missing;
            ``tied_partial``; or what `registry.tensors.exact.fit.check_fit` raises about tensors that the base lacks.
    """
    folder, model = full.place, full.model
    config = model.model.config
    if config is None:
        raise InvalidAdapterError(
            f"{folder} has no {MODEL_CONFIG}; a folder written by save_pretrained is expected.", code="missing_file"
        )
    weights = base_weights(blobs, base, opened)
    table = target_table(blobs, base.base)
    untied = _says_untied(config) and not _says_untied(_base_config(blobs, base))
    found = _by_base_names(open_tensors(model, opened), weights.tensors, table, folder, untied=untied)
    shapes = _shapes(weights.tensors)
    check_fit(_shapes({name: one for name, one in found.items() if name not in shapes}), shapes, table, config)
    return Beside(config, found, weights.tensors, table)


def _shapes(tensors: Tensors) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (entry.dtype, entry.shape) for name, (_, entry) in tensors.items()}


def _by_base_names(found: Tensors, base: Tensors, table: TargetTable, folder: Path, *, untied: bool) -> Tensors:
    """The tensors of a model by the base's names; a copy of a tied weight that the base lacks is left out.

    Raises:
        InvalidAdapterError: ``incomplete_model``: it lacks a tensor of the base; ``tied_partial``: a copy of a tied
            weight is another weight, or config.json unties it (``untied``).
    """
    named: dict[str, tuple[ByteSource, TensorEntry]] = {}
    for name in sorted(found, key=lambda name: name not in base):  # the base's own name counts before other spellings
        spelled = _named(name, base, table)
        named[name if spelled in named else spelled] = found[name]
    missing = sorted(base.keys() - named.keys())
    for name in missing:  # saved once, but the base's files have a copy for each side
        held = _other_side(name, named, table)
        if held is None:
            raise InvalidAdapterError(
                f"{folder} lacks the tensor {shown(name)} of the base model{_and_more(len(missing) - 1)}: publish the "
                "whole model, or publish it under the base that it was trained on.",
                code="incomplete_model",
            )
        named[name] = held
    return dict(_without_copies(named, base, table, untied=untied))


def _named(name: str, base: Tensors, table: TargetTable) -> str:
    return next((spelled for spelled in table.spellings(name) if spelled in base), name)


def _other_side(name: str, named: Tensors, table: TargetTable) -> tuple[ByteSource, TensorEntry] | None:
    module = name.removesuffix(".weight")
    group = table.tie_group(module) if module in table.targets else ()
    return next((named[f"{other}.weight"] for other in group if f"{other}.weight" in named), None)


def _without_copies(
    named: Tensors, base: Tensors, table: TargetTable, *, untied: bool
) -> Iterator[tuple[str, tuple[ByteSource, TensorEntry]]]:
    for name, one in named.items():
        if name not in base and (other := _other_side(name, {key: named[key] for key in base}, table)) is not None:
            if untied and table.output_module in table.tie_group(name.removesuffix(".weight")):
                raise InvalidAdapterError(
                    f"Tensor {shown(name)} is tied to another one in the base model, and {MODEL_CONFIG} says "
                    "tie_word_embeddings false: an exact revision keeps the ties of its base. Set it to true if both "
                    "are one weight, or add this model as a base model of its own.",
                    code="tied_partial",
                )
            if _same_bytes(one, other):
                continue
            raise InvalidAdapterError(
                f"Tensor {shown(name)} and the one that it is tied to in the base model hold different numbers: an "
                "exact revision keeps the ties of its base. Add this model as a base model of its own.",
                code="tied_partial",
            )
        yield name, one


def _same_bytes(one: tuple[ByteSource, TensorEntry], other: tuple[ByteSource, TensorEntry]) -> bool:
    pair = {"": one}, {"": other}
    return not any(changed_tensors(*pair, lambda _: None))


def _says_untied(config: Mapping[str, Any]) -> bool:
    inside = (value for value in config.values() if isinstance(value, dict))
    return config.get("tie_word_embeddings") is False or any(map(_says_untied, inside))


def _base_config(blobs: Blobs, base: LoadedPath) -> Mapping[str, Any]:
    found = next((file for file in base.base.files if file.path == MODEL_CONFIG), None)
    return {} if found is None else read_document(blobs, found)


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def _check_space(out: Path, wanted: int) -> None:
    free = shutil.disk_usage(out).free
    if free < wanted:
        raise UnavailableError(
            f"The compressed tensors need about {size(wanted)}, and {out} has {size(free)} free: set TMPDIR to a place "
            "with more.",
            code="disk_full",
        )


def _copy(files: Iterable[FoundFile], out: Path) -> None:
    for found in files:
        target = out / found.path
        with telling_unreadable(found.file):
            source = found.file.open("rb")
        with ErrorMapping(unwritable, out), source:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(source, file)
