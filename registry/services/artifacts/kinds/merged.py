"""A whole model: the base model's files with the path folded into the weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from registry.digest import StoredFile
from registry.files.header import Header
from registry.files.model_weights import ModelWeights
from registry.folders import base_files
from registry.folders.scan import README
from registry.services.artifacts.bound import bound_links
from registry.services.artifacts.inputs import Inputs
from registry.services.artifacts.kinds.builder import Builder, Built, Order
from registry.services.artifacts.kinds.laid_out import LaidOut, laid_out
from registry.services.artifacts.readme.text import readme_file
from registry.services.lineage import LoadedPath, read_blob
from registry.tensors.artifacts.artifact import ArtifactFile, Measured, Meter, generated_file, source_file
from registry.tensors.artifacts.merged import (
    changes_dtype,
    config_with_dtype,
    index_of,
    labelled_config,
    labels_of_new_head,
    merged_file,
    untied_config,
    write_json,
)
from registry.tensors.fidelity.meter import FidelityMeter
from registry.tensors.path.programs import NewTensor, PathPrograms, path_programs
from registry.tensors.path.slot_values import SharedFactors
from registry.tensors.table.targets import TargetTable
from registry.tensors.table.ties import retable_needed, unsaid
from registry.transfer.model_files import CONFIG, INDEX


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
    notices = (*laid.notices, *_notices(programs), *onto_notices(order))
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
    """config.json and the index, where dtype, ties, labels or the set of tensors change; removed from ``side``.

    Of a quantised base model the index is made anew, and what says how it is quantised is rewritten.
    """
    files = []
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
    if anew or (INDEX in side and (recast or programs.new or inputs.path.exact is not None)):
        index = _NO_INDEX if anew else json.loads(read_blob(inputs.blobs, side.pop(INDEX)))
        out_headers: dict[str, Header] = {file.path: file.header for file in weights if file.header}
        files.append(generated_file(INDEX, write_json(index_of(index, out_headers))))
    return files


_NO_INDEX: Final[Mapping[str, Any]] = {"metadata": {"total_size": 0}, "weight_map": {}}


def _check_kept(inputs: Inputs) -> None:
    if unsaid(inputs.table) is not None:
        check_ties_known(path_programs(bound_links(inputs, inputs.path.live), inputs.table), inputs.table, inputs.path)


def check_ties_known(programs: PathPrograms, table: TargetTable, path: LoadedPath) -> None:
    """If this path unties head and embedding, the table has to know all other ties; raises ``retable_needed``."""
    if programs.untied and (tied := unsaid(table)) is not None:
        raise retable_needed(
            f"{' and '.join(map(repr, programs.untied))} are tied, and not whether {tied!r} is too", path.base.name
        )


def _by_file(new: Iterable[NewTensor], headers: Mapping[str, Header]) -> dict[str, list[NewTensor]]:
    """New tensors by the weight file that they go into: that of the weight it was tied to, else the last file."""
    found: dict[str, list[NewTensor]] = {}
    for tensor in new:
        file = next((name for name, header in headers.items() if tensor.beside in header.entries), max(headers))
        found.setdefault(file, []).append(tensor)
    return found


def onto_notices(order: Order) -> Iterator[str]:
    """What the path was merged onto, where that is not the base model as it is stored."""
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
