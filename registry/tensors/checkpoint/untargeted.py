"""Pairs whose modules the configuration does not target: PEFT ignores them when it loads the adapter.

They count here, so the weights would be others than those that PEFT gives. A new adapter that has them is refused when
it is published; one that is there already, or is copied from where it is, goes on with a notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.adapter import LoraPair
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.coverage import excluded_test, is_all_linear, is_linear, listed, name_test
from registry.tensors.checkpoint.patterns import PatternBudget
from registry.tensors.table.targets import TargetTable

CODE: Final = "untargeted_pair"


def untargeted_pairs(
    config: LoraAdapterConfig, table: TargetTable, pairs: Mapping[str, LoraPair], budget: PatternBudget
) -> list[str]:
    """Modules with a pair that the configuration does not target, as the checkpoint spells them.

    Args:
        config: the adapter's configuration.
        table: the base's modules.
        pairs: of the modules that ``target_modules`` has to mean, by name in the checkpoint.
        budget: time for the publisher's patterns.
    """
    if config.target_modules is None:
        # with target_parameters that is none; without, it is a list that PEFT keeps for each architecture
        return list(pairs) if config.target_parameters else []
    if not is_all_linear(config):
        test = name_test(config, budget)
        return [name for name in pairs if not test(name)]
    excluded = excluded_test(config, budget)
    return [name for name, pair in pairs.items() if excluded(name) or not _is_linear(config, pair, table)]


def _is_linear(config: LoraAdapterConfig, pair: LoraPair, table: TargetTable) -> bool:
    """Whether "all-linear" means the module of a pair, in the version of transformers that it was trained with.

    Each expert was a linear module of its own before transformers 5.
    """
    return pair.piece is not None or bool(pair.parameter) or is_linear(config, pair.target, table)


def untargeted_notice(names: Iterable[str]) -> str:
    """What is said about an adapter that is kept all the same."""
    return (
        f"The adapter has tensors for {listed(list(names))}, which its configuration does not target: they are used "
        "here, but PEFT would ignore them."
    )


def refuse_untargeted(config: LoraAdapterConfig, names: Iterable[str]) -> None:
    """Refuse an adapter that has such pairs.

    Raises:
        InvalidAdapterError: ``untargeted_pair``, naming the modules.
    """
    names = list(names)
    if not names:
        return
    fields = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform")
    said = [field for field in fields if config.document.get(field)] or ["target_modules"]
    raise InvalidAdapterError(
        f"The adapter has a LoRA pair for {listed(names)}, but adapter_config.json ({', '.join(said)}) does not target "
        f"{'it' if len(names) == 1 else 'them'}, so PEFT would ignore the pair when it loads the adapter. Correct "
        "target_modules if it was trained, or remove the tensors.",
        code=CODE,
    )
