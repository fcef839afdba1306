"""How a composed adapter spells the names of modules: as its links do.

A model without a head names the modules of the same base without the base model prefix (``layers.0.fc`` and
``model.layers.0.fc``), and PEFT finds none of an adapter's modules under the other name. The table knows the names of
one class alone, which need not be the class that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from registry.tensors.composed.adapter_tensors import LEAD
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetTable

Spelling = Callable[[str], str]


def spelling_of(links: Sequence[BoundLink], names: Collection[str], table: TargetTable) -> Spelling:
    """Turns the table's name of a module or a tensor into the one that the links have.

    Args:
        links: those that the adapter holds, root first; the youngest that tells the difference decides.
        names: all names that are to be spelled. Where a model without a head can't have one of them (``lm_head``), the
            adapter is one of the model with a head.
        table: the base's target table.
    """
    lead = f"{table.prefix}."
    told = (found for link in reversed(links) if (found := _told(link, lead)) is not None)
    by = next(told, 0) if table.prefix else 0
    if by < 0 and all(name.startswith(lead) for name in names):
        return lambda name: name.removeprefix(lead)
    if by > 0:
        # a head that the base lacks lies beside the prefix
        roots = {name.partition(".")[0] for name in (*table.targets, *table.parameters)}
        return lambda name: lead + name if name.partition(".")[0] in roots else name
    return lambda name: name


def _told(link: BoundLink, lead: str) -> int | None:
    """1: the link has the prefix before the table's names, -1: it lacks it, 0: neither; None: it can't be seen."""
    for name, spelled in _names(link):
        for found, by in ((name, 0), (lead + name, 1), (name.removeprefix(lead), -1)):
            if spelled == found or spelled.startswith(f"{found}."):
                return by
    return None


def _names(link: BoundLink) -> Iterator[tuple[str, str]]:
    """The table's name of what a link changes, and the name of the tensor that does it."""
    checkpoint = link.checkpoint
    for pair in checkpoint.pairs.values():
        yield pair.target.module, pair.a.name.removeprefix(LEAD)
    for rows in checkpoint.tokens.values():
        yield rows.target.module, rows.entry.name.removeprefix(LEAD)
    for value in checkpoint.values.values():
        yield value.parameter.rpartition(".")[0], value.entry.name.removeprefix(LEAD)
