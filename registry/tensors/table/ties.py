"""Parameters that are one at run time: what a model's flag ties, and what its files keep apart.

``tie_word_embeddings`` ties more than an embedding and its head: in BERT-like models the head's bias too. A merged
model that sets it to false loses all of these ties, so each parameter then needs its own tensor. Conversely, a model
that ties by its class may come with files that hold both sides with different numbers: transformers keeps those apart
when it loads them, whatever the configuration sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace

from registry.errors import ConflictError
from registry.tensors.table.targets import Target, TargetTable


def with_flag_ties(
    table: TargetTable, groups: Sequence[Sequence[str]], computed: Container[str], renamed: Container[str]
) -> TargetTable:
    """The table with the parameters that the flag ties and the files lack, if `Target.tie` does not cover them all.

    Args:
        table: with its targets and parameters.
        groups: parameters that the flag ties, each group with the one first that gives its value.
        computed: parameters that the files keep in another form.
        renamed: parameters that a tensor of their name would not be loaded into.
    """
    ties: dict[str, str | None] = {}
    for group in groups:
        holders = [name for name in group if name in table.parameters]
        if not holders and not any(name in computed for name in group):
            continue  # the files lack them all
        for name in group:
            if name not in table.parameters and name not in computed:
                ties[name] = holders[0] if holders and name not in renamed else None
    heads = {f"{module}.weight" for module in _head_group(table)}
    if any(holder is None or not (name in heads or _can_stay(name, table)) for name, holder in ties.items()):
        return replace(table, ties=dict(sorted(ties.items())))
    # a table from before these facts were written may look like one that needs them: this one records that it does not
    return table if unsaid(table) is None else replace(table, ties={})


def _head_group(table: TargetTable) -> tuple[str, ...]:
    """The modules that share the head's weight: they may part. Empty where it is not tied."""
    head = table.targets.get(table.output_module or "")
    return () if head is None or head.tie is None else table.tie_group(head.module)


def _can_stay(parameter: str, table: TargetTable) -> bool:
    """Whether a tie is given by `Target.tie`, and no setting of the model can undo it."""
    target = table.targets.get(parameter.removesuffix(".weight"))
    return target is not None and target.tie is not None and not _head_group(table)


def unsaid(table: TargetTable) -> str | None:
    """A parameter that the head's flag may tie too, in a table that does not record what it ties.

    Tables were made without these facts once. They show by a tied head without its own bias and a bias of its
    size that is no other module's, as in BERT-like models, or by other tied weights that the files lack.
    """
    group = _head_group(table)
    if table.ties is not None or not group:
        return None
    head = table.targets[table.output_module or ""]
    if f"{head.module}.bias" not in table.parameters:
        for name, held in table.parameters.items():
            module, _, leaf = name.rpartition(".")
            if leaf == "bias" and held.shape == (head.out_features,) and module not in table.targets:
                return name
    tied = (one.module for one in table.targets.values() if one.tie is not None and one.tensor is None)
    return next((f"{module}.weight" for module in tied if module not in group), None)


def retable_needed(says: str, base: str = "NAME", of: str = "ties") -> ConflictError:
    """The error for a path that an old table can't serve; ``says`` is what the table records wrongly, or lacks."""
    return ConflictError(
        f"The base model's target table was made by a version that knew less about its {of}: it says that {says}. "
        f"Rebuild it with `registry base retable {base}`.",
        code="retable_needed",
    )


def holds_copies(table: TargetTable) -> bool:
    """Whether the files hold a tensor for more than one module that share a weight by the table."""
    return any(True for _ in _held_twice(table))


def apart_in_files(table: TargetTable, digests: Mapping[str, str]) -> dict[str, str]:
    """Tied modules whose own tensor holds other numbers than that of their weight's holder, and that holder.

    ``digests`` are those of the file tensors; equal digests are equal numbers of one dtype and shape. As transformers
    does it on loading: each is compared with the holder, and left apart where they differ.
    """
    found: dict[str, str] = {}
    for group, held in _held_twice(table):
        holder = _holder(held, group, table)
        for target in held:
            if target is not holder and digests[target.tensor or ""] != digests[holder.tensor or ""]:
                found[target.module] = holder.module
    return dict(sorted(found.items()))


def _held_twice(table: TargetTable) -> Iterator[tuple[tuple[str, ...], list[Target]]]:
    """Groups that share a weight of which the files hold several tensors, and the modules that have them."""
    for group in {table.tie_group(module) for module, target in table.targets.items() if target.tie is not None}:
        held = [table.targets[module] for module in group if table.targets[module].tensor is not None]
        if len(held) > 1:
            yield group, held


def _holder(held: list[Target], group: tuple[str, ...], table: TargetTable) -> Target:
    """The one that gives the others its value: they name it."""
    named = Counter(table.targets[module].tie for module in group)
    return max(held, key=lambda target: named[target.module])


def parted_by_files(table: TargetTable, digests: Mapping[str, str]) -> TargetTable:
    """The table without the ties that the files contradict; these are listed in `TargetTable.apart`."""
    apart = apart_in_files(table, digests)
    if not apart:
        return table
    targets = dict(table.targets)
    for module in apart:
        targets[module] = replace(targets[module], tie=None)
    for holder in set(apart.values()):
        others = sorted(one.module for one in targets.values() if one.tie == holder)
        if targets[holder].tie not in others:
            targets[holder] = replace(targets[holder], tie=others[0] if others else None)
    return replace(table, targets=targets, apart=apart)
