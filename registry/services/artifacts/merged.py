"""A whole model: the base model's files with the path folded into the weights.

Its weights are laid out as the base's files. A quantised base is written plain, with every weight decoded and rounded
once; or mixed (``--dtype keep``), where what the path changes is dense and everything else is as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.digest import StoredFile
from registry.errors import UsageError
from registry.figures import size as size_text
from registry.files.header import Header, ModelWeights
from registry.folders import base_files
from registry.folders.scan import README
from registry.quantised.listing import (
    QUANTISED_FILES,
    PlainListing,
    dense_with,
    mixed_files,
    plain_config,
    plain_dtype,
    skipping,
)
from registry.services.artifacts.readme.facts import readme_file
from registry.tensors.arithmetic.dtypes import CONFIG_NAMES, OPTION_DTYPES
from registry.tensors.artifacts.artifact import ArtifactFile, Measured, Meter, generated_file, source_file
from registry.tensors.artifacts.merged import (
    changes_dtype,
    config_with_dtype,
    index_of,
    labelled_config,
    labels_of_new_head,
    merged_file,
    says_dtype,
    untied_config,
    write_json,
)
from registry.tensors.artifacts.requantised import Requantised, check_arrives, requantised
from registry.tensors.fidelity.meter import FidelityMeter
from registry.tensors.lineage.bound import bound_links, check_ties_known, weight_notices
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.lineage.paths import read_blob
from registry.tensors.lineage.plan import Builder, Built, Order
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import NewTensor, PathPrograms, path_programs
from registry.tensors.path.slot_values import SharedFactors
from registry.tensors.quantised.source import mixed_weights
from registry.tensors.table.targets import TargetKind, TargetTable
from registry.tensors.table.ties import unsaid
from registry.transfer.model_files import COMPONENT_INDEX, CONFIG, HF_QUANT, INDEX, index_name, is_document

KEEP: Final = "keep"
FP8: Final = "fp8"


@dataclass(frozen=True)
class Skipped:
    """Modules that a loader of a mixed model is not to convert."""

    dense: tuple[str, ...]  # that became dense
    others: tuple[str, ...]  # linear layers that always were


@dataclass(frozen=True)
class LaidOut:
    """The files of a merged model before its path.

    Attributes:
        weights: the weight files.
        values: what programs start from, and what is copied.
        dtype: of all float tensors, as in headers; None: each keeps its own.
        gone: files of the base model that the merged one does not have.
        plain: of a quantised base, whose index is made anew; None of another.
        skipped: of a mixed model.
        notices: for who fetches it.
        codes: of a model on the grid of its base's codes, whose files are laid out as the base's.
    """

    weights: ModelWeights
    values: BaseTensors
    dtype: str | None
    gone: frozenset[str] = frozenset()
    plain: PlainListing | None = None
    skipped: Skipped | None = None
    notices: tuple[str, ...] = ()
    codes: Requantised | None = None

    def rewrites(self, path: str) -> bool:
        """Whether a JSON file of the base describes its quantisation."""
        return self.plain is not None and path in (CONFIG, HF_QUANT)

    def rewritten(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Such a file of the merged model."""
        if self.skipped is not None:
            return skipping(document, self.skipped.dense, self.skipped.others)
        plain = plain_config(document)
        said = any(plain.get(key) is not None for key in ("dtype", "torch_dtype"))
        return plain if said else config_with_dtype(plain, plain_dtype(document))


def laid_out(order: Order, programs: PathPrograms) -> LaidOut:
    """Lay out the weights of a merged model.

    Args:
        order: the request for it.
        programs: what the path does.

    Raises:
        UsageError: `KEEP` or `FP8` of a base model that is not quantised.
        AccuracyError: ``not_representable``, too little would arrive on the grid of the codes.
    """
    inputs, dtype = order.inputs, order.options.dtype
    weights, plain = inputs.base_weights(), inputs.stored.plain
    if plain is None:
        if dtype in (KEEP, FP8):
            raise UsageError(
                f"--dtype {dtype} keeps what a quantised base model stores, and {inputs.path.base.name} is not "
                "quantised. Leave it out: every weight keeps its own dtype."
            )
        return LaidOut(weights, BaseTensors(weights.tensors), OPTION_DTYPES[dtype] if dtype else None)
    if dtype == FP8:
        return _on_codes(order, programs, plain, weights)
    changed = {run.tensor for slot in programs.programs for run in slot.places}
    dense = dense_with(changed, plain)
    stored = frozenset({*inputs.stored.headers, INDEX, COMPONENT_INDEX})
    if dtype == KEEP and len(dense) < len(plain.decoded):
        mixed = mixed_weights(plain, inputs.stored.tensors, mixed_files(plain, inputs.stored.headers, dense))
        values = BaseTensors({**weights.tensors, **mixed.tensors})
        skipped = Skipped(*_modules(inputs.table, plain, dense))
        return LaidOut(mixed, values, None, stored, plain, skipped, _mixed_notices(plain, dense, weights))
    gone = stored.union(QUANTISED_FILES)
    option = None if dtype in (None, KEEP) else OPTION_DTYPES[str(dtype)]
    notices = tuple(_plain_notices(inputs, weights, kept=dtype == KEEP))
    return LaidOut(weights, BaseTensors(weights.tensors), option, gone, plain, None, notices)


def _on_codes(order: Order, programs: PathPrograms, plain: PlainListing, weights: ModelWeights) -> LaidOut:
    """On the grid of the stored codes, in files laid out as the base's."""
    stored, path = order.inputs.stored, order.path
    base = BaseTensors(weights.tensors)
    wanted = {name: [one for _, one in many] for name, many in programs.placed().items() if name in plain.decoded}
    codes = requantised(order.plan.digest, plain, stored.tensors, base, wanted)
    check_arrives(codes, plain.kind, order.options.min_fidelity, path.reference)
    laid = mixed_weights(plain, stored.tensors, mixed_files(plain, stored.headers, ()))
    values = BaseTensors({**weights.tensors, **laid.tensors})
    return LaidOut(laid, values, None, frozenset(stored.headers), codes=codes, notices=tuple(_codes_notices(codes)))


def _codes_notices(codes: Requantised) -> Iterator[str]:
    found = codes.fidelity
    if found is not None and found.surviving_share is not None and found.relative_error is not None:
        yield (
            f"On the grid of the stored codes {found.surviving_share:.0%} of the path's change survives, with an error "
            f"of {found.relative_error:.2f} times the change. --dtype keep loses nothing."
        )


def _modules(table: TargetTable, plain: PlainListing, dense: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules of dense tensors, as they run and as the files call them; and the other linear layers."""
    named = {name.removesuffix(".weight") for name in dense}
    others = set()
    for target in table.targets.values():
        tensors = {target.tensor, *(piece.tensor for fused in target.fused for piece in fused.pieces)}
        if tensors & dense:
            named.add(target.module)
        elif target.kind is TargetKind.LINEAR and target.tensor is not None and target.tensor not in plain.decoded:
            others.add(target.module)
    return tuple(sorted(named)), tuple(sorted(others))


def _mixed_notices(plain: PlainListing, dense: frozenset[str], weights: ModelWeights) -> tuple[str, ...]:
    size = sum(entry.stop - entry.start for name in dense for entry in (weights.tensors[name][1],))
    notice = (
        f"{len(dense)} of {len(plain.decoded)} quantised weights are written in {CONFIG_NAMES[plain.dtype]} "
        f"({size_text(size)}), because the path changes them or engines load them together with such; all others are "
        "byte for byte as they are stored."
    )
    return (notice,)


def _plain_notices(inputs: Inputs, weights: ModelWeights, *, kept: bool) -> Iterator[str]:
    stored = sum(source.size for source in {id(one): one for one, _ in inputs.stored.tensors.values()}.values())
    size = sum(_size(weights, path) for path in weights.headers)
    if kept:
        yield "The path changes every quantised weight, or one that engines load together with it: nothing is kept."
    yield (
        f"{inputs.path.base.name} is quantised: its weights are written plain, {size / max(1, stored):.1f} x the "
        "stored base. --dtype keep writes only what the path changes plain."
    )


def _size(weights: ModelWeights, path: str) -> int:
    """Bytes of a weight file in its plain dtype."""
    header = weights.headers[path]
    return max((entry.stop for entry in header.entries.values()), default=header.size)


def _build(order: Order) -> Built:
    inputs, path, memory = order.inputs, order.path, order.memory
    kept = None if memory is None or not memory.limit("factors") else SharedFactors(memory, order.plan.digest)
    bound = bound_links(inputs, path.live)
    programs = path_programs(bound, inputs.table)
    check_ties_known(programs, inputs.table, path)
    laid = laid_out(order, programs)
    headers, changed, codes = laid.weights.headers, programs.placed(), laid.codes
    if codes is not None and inputs.stored.plain is not None:
        changed = {name: places for name, places in changed.items() if name not in inputs.stored.plain.decoded}
    new = _by_file(programs.new.values(), headers)
    blocks = None if order.measured is None or codes is not None else FidelityMeter(order.measured)
    meter: Meter | None = blocks if codes is None else Measured(codes.fidelity)
    made = {} if codes is None else codes.made
    weights = [
        _stored(inputs, name, header, laid.weights)
        if laid.plain is None
        and laid.dtype is None
        and name not in new
        and header.entries.keys().isdisjoint(changed.keys() | made.keys())
        else merged_file(name, header, laid.values, changed, new.get(name, ()), laid.dtype, kept, blocks, made)
        for name, header in headers.items()
    ]
    by_name = {file.path: file for file in path.base.files if file.path not in headers.keys() | laid.gone}
    read = order.links[max(path.dead - 1, 0) :]  # what is above the last exact link is history
    side = base_files.choose(by_name, [{file.path: file for file in link.files} for link in read])
    if path.exact is not None:
        base_files.take_model_files(side, {file.path: file for file in path.exact.files})
    rewritten = _rewritten(inputs, side, weights, laid, programs)
    if order.links:
        side.pop(README, None)  # the base's card is about the base
        config = bound[-1].checkpoint.config.document if bound else {}
        rewritten.append(readme_file(inputs.blobs, path, order.plan, config, order.ancestor))
    copied = [source_file(name, inputs.source(blob), digest=blob.digest) for name, blob in side.items()]
    weighted = weight_notices(zip(path.live, bound, strict=True))
    notices = (*laid.notices, *_notices(programs), *onto_notices(order), *weighted)
    return Built(order.plan, [*weights, *rewritten, *copied], notices, meter=meter)


def _stored(inputs: Inputs, name: str, header: Header, weights: ModelWeights) -> ArtifactFile:
    """A weight file that no live link changes."""
    if name in weights.made:
        return source_file(name, weights.made[name], header)
    blob = next(file for file in inputs.path.base.files if file.path == name)
    return source_file(name, inputs.source(blob), header, blob.digest)


def _rewritten(
    inputs: Inputs, side: dict[str, StoredFile], weights: list[ArtifactFile], laid: LaidOut, programs: PathPrograms
) -> list[ArtifactFile]:
    """config.json and the index, if dtype, ties, labels or the set of tensors change; removed from ``side``.

    Of a quantised base model the index is made anew, and the description of its quantisation is rewritten.
    """
    files = []
    headers: dict[str, Header] = {file.path: file.header for file in weights if file.header}
    if inputs.table.components:
        return _rewritten_components(inputs, side, laid, headers)
    recast = laid.dtype is not None and changes_dtype(laid.weights.headers, laid.dtype)
    labels = labels_of_new_head({name: one.shape for name, one in programs.new.items() if one.beside is None})
    for path in [path for path in side if path != CONFIG and laid.rewrites(path)]:
        document = json.loads(read_blob(inputs.blobs, side.pop(path)))
        files.append(generated_file(path, write_json(laid.rewritten(document))))
    if CONFIG in side and (recast or programs.untied or labels or laid.rewrites(CONFIG)):
        config = json.loads(read_blob(inputs.blobs, side.pop(CONFIG)))
        config = laid.rewritten(config) if laid.rewrites(CONFIG) else config
        config = config_with_dtype(config, laid.dtype) if recast and laid.dtype else config
        config = untied_config(config) if programs.untied else config
        config = labelled_config(config, labels) if labels else config
        files.append(generated_file(CONFIG, write_json(config)))
    anew = laid.plain is not None and len(weights) > 1
    called = index_name([file.path for file in inputs.path.base.files])
    if anew or (called in side and (recast or programs.new or inputs.path.exact is not None)):
        index = _NO_INDEX if anew else json.loads(read_blob(inputs.blobs, side.pop(called)))
        files.append(generated_file(called, write_json(index_of(index, headers))))
    return files


def _rewritten_components(
    inputs: Inputs, side: dict[str, StoredFile], laid: LaidOut, headers: Mapping[str, Header]
) -> list[ArtifactFile]:
    """The same of a pipeline whose dtype changes, for each component.

    Those of diffusers say no dtype, and transformers' do; a path brings a pipeline no tensor that it lacks.
    """
    files = []
    for folder in sorted({path.rpartition("/")[0] for path in headers}):
        own = {path: header for path, header in headers.items() if path.startswith(f"{folder}/")}
        if laid.dtype is None or not changes_dtype({path: laid.weights.headers[path] for path in own}, laid.dtype):
            continue
        for path in [path for path in side if path.startswith(f"{folder}/") and is_document(path)]:
            document = json.loads(read_blob(inputs.blobs, side[path]))
            if path.endswith(f"/{CONFIG}") and not says_dtype(document):
                continue
            del side[path]
            made = config_with_dtype(document, laid.dtype) if path.endswith(f"/{CONFIG}") else index_of(document, own)
            files.append(generated_file(path, write_json(made)))
    return files


_NO_INDEX: Final[Mapping[str, Any]] = {"metadata": {"total_size": 0}, "weight_map": {}}


def _check_kept(inputs: Inputs) -> None:
    if unsaid(inputs.table) is not None:
        check_ties_known(path_programs(bound_links(inputs, inputs.path.live), inputs.table), inputs.table, inputs.path)


def _by_file(new: Iterable[NewTensor], headers: Mapping[str, Header]) -> dict[str, list[NewTensor]]:
    """New tensors by the weight file that they go into: that of the weight it was tied to, else the last file."""
    found: dict[str, list[NewTensor]] = {}
    for tensor in new:
        file = next((name for name, header in headers.items() if tensor.beside in header.entries), max(headers))
        found.setdefault(file, []).append(tensor)
    return found


def onto_notices(order: Order) -> Iterator[str]:
    """What the path was merged onto, if that is not the stored base model."""
    how = order.plan.onto
    if how is not None:
        silent = [link.reference for link in order.path.live if link.trained_quantised is None]
        besides = f" {' and '.join(silent)} did not say so and went onto the same." if silent else ""
        yield (
            f"The linear modules of the base model are what training in 4 bits makes of them ({how}), not what is "
            f"stored, whether the path changes them or not.{besides}"
        )


def _notices(programs: PathPrograms) -> Iterator[str]:
    if programs.untied:
        yield (
            f"{' and '.join(map(repr, programs.untied))} share one weight in the base model and not after this path: "
            f"both are in the files, and config.json says tie_word_embeddings false.{_let_go_too(programs)}"
        )
    heads = [name for name, tensor in programs.new.items() if tensor.beside is None]
    if heads:
        yield (
            f"The files hold {', '.join(map(repr, heads))}, which the base model does not have: load them with the "
            "class the adapter was trained with."
        )


def _let_go_too(programs: PathPrograms) -> str:
    known = {f"{module}.weight" for module in programs.untied}
    others = sorted(name for name, tensor in programs.new.items() if tensor.beside is not None and name not in known)
    verb = "is" if len(others) == 1 else "are"
    return f" So {verb} {', '.join(map(repr, others))}, which the same switch ties." if others else ""


MERGED = Builder(_build, _check_kept)
