"""Which modules a configuration targets, compared with the tensors of the file.

The tensors decide what is adapted. But a targeted module without tensors is a hole that PEFT fills with a fresh pair
and a warning, so it is refused here. What can't be known from the files is the class of the model that was trained:
it may lack heads, poolers or a whole tower that the base has, or name modules with another prefix. So unless the
class is known to be that of the base, only modules in numbered layers of a stack that has tensors are sure.

Tensors that PEFT saves twice, such as those of two modules that share a weight: both must hold the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

import torch

from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource, read_range
from registry.files.strict_json import shown
from registry.images.adapter_file import number_in
from registry.tensors.checkpoint.adapter import Checkpoint, LoraAdapterConfig, Twin
from registry.tensors.checkpoint.factors import read_rows
from registry.tensors.checkpoint.patterns import PatternBudget, ends
from registry.tensors.table.slots import as_matrix
from registry.tensors.table.targets import Target, TargetKind, TargetTable

_STEP: Final = 4096


def check_twins(checkpoint: Checkpoint, source: ByteSource) -> None:
    """Compare every tensor with its twin.

    Raises:
        InvalidAdapterError: ``tied_partial``, naming both.
    """
    for twin in checkpoint.twins:
        if not _equal(twin, source):
            raise InvalidAdapterError(
                f"The tensors {twin.first.name!r} and {twin.second.name!r} are the same weight, but contain different "
                "numbers. Save the adapter again.",
                code="tied_partial",
            )


def check_alphas(checkpoint: Checkpoint, source: ByteSource) -> None:
    """Compare every tensor that holds an alpha with the configuration's alpha.

    Raises:
        InvalidAdapterError: ``alpha_invalid``, or what `registry.images.adapter_file.number_in` raises.
    """
    for entry, expected in checkpoint.alphas:
        found = number_in(entry, lambda one: bytes(read_range(source, one.start, one.stop)))
        if found != expected:
            raise InvalidAdapterError(
                f"Tensor {entry.name!r} holds {found:g}, and adapter_config.json says {expected:g}. "
                "Publish the file as it is.",
                code="alpha_invalid",
            )


def _equal(twin: Twin, source: ByteSource) -> bool:
    rows, _ = as_matrix(twin.second.shape)
    whole = read_rows(source, twin.first, 0, twin.first.shape[0]).T if twin.transposed else None
    for start in range(0, rows, _STEP):
        stop = min(start + _STEP, rows)
        first = read_rows(source, twin.first, start, stop) if whole is None else whole[start:stop]
        if not torch.equal(first.double(), read_rows(source, twin.second, start, stop).double()):
            return False
    return True


ALL_LINEAR: Final = "all-linear"
_COVERED: Final = (
    TargetKind.LINEAR,
    TargetKind.CONV1D,
    TargetKind.EMBEDDING,
    TargetKind.CONV,
    TargetKind.ATTENTION,
)
_ALL_LINEAR: Final = (TargetKind.LINEAR, TargetKind.CONV1D)
_FIRST_INDEX: Final = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")
_NUMBERED: Final = re.compile(r"(?P<stack>.*?)(?:^|\.)\d+\.")
_TASK_CLASSES: Final = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
    "SEQ_CLS": ("ForSequenceClassification",),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
}
_CLASSIFIERS: Final = ("score", "classifier")
_HEADS: Final = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
_PLAIN_NAME: Final = re.compile(r"[\w.-]+", re.ASCII)

NameTest = Callable[[str], bool]


def targeted_modules(
    config: LoraAdapterConfig,
    table: TargetTable,
    *,
    trained: Collection[str] = (),
    budget: PatternBudget | None = None,
) -> list[str]:
    """Canonical names of the base's modules that the configuration targets.

    Args:
        config: the adapter's configuration.
        table: the base's modules.
        trained: module names as the checkpoint spells them, from which is seen whether the model that was trained had
            the base model prefix; patterns speak of the names that it had.
        budget: time for the publisher's patterns.
    """
    if config.target_modules is None:
        return []
    budget = budget or PatternBudget()
    everything = is_all_linear(config)
    excluded = excluded_test(config, budget)
    test = excluded if everything else name_test(config, budget)
    spelling = _spelling(trained, table)
    found: list[str] = []
    for module, target in table.targets.items():
        name = spelling(module)
        if target.kind not in _COVERED or name is None or _inside_attention(module, table):
            continue
        # a table from tensor names can't distinguish linear layers from embeddings
        linear = everything and table.knows_kinds and is_linear(config, target, table)
        if linear and not excluded(name) if everything else test(name):
            found.append(module)
    return found


def check_coverage(
    config: LoraAdapterConfig,
    table: TargetTable,
    pairs: Mapping[str, str],
    budget: PatternBudget,
) -> list[str]:
    """Refuse an adapter that lacks tensors for a module that its configuration targets.

    Args:
        config: the adapter's configuration.
        table: the base's modules.
        pairs: canonical name -> name in the checkpoint, of every module that has a pair.
        budget: time for the publisher's patterns.

    Returns:
        Notices about what can't be decided.

    Raises:
        InvalidAdapterError: ``incomplete_adapter``, naming the modules.
    """
    if not config.target_modules:
        return []
    targeted = targeted_modules(config, table, trained=pairs.values(), budget=budget)
    missing = [module for module in targeted if module not in pairs]
    surely = sure_test(config, table, pairs)
    holes = [module for module in missing if surely(module)]
    if holes:
        raise InvalidAdapterError(
            f"The configuration targets {listed(holes)}, for which the adapter has no tensors. Save it again, or "
            "correct target_modules.",
            code="incomplete_adapter",
        )
    notices = []
    if missing:
        notices.append(
            f"The configuration targets {listed(missing)} of the base model, for which the adapter has no tensors: it "
            "is assumed that the trained model did not have them."
        )
    return notices


def name_test(config: LoraAdapterConfig, budget: PatternBudget) -> NameTest:
    """Whether PEFT would adapt a module of that name (``check_target_module_exists`` in PEFT 0.21)."""
    excluded = excluded_test(config, budget)
    if isinstance(config.target_modules, str):
        expression = budget.compile(config.target_modules, field="target_modules", whole=True)
        return lambda name: not excluded(name) and expression.match(name) is not None
    names = frozenset(config.target_modules or ())
    layers = _layer_test(config, budget)

    def test(name: str) -> bool:
        if excluded(name):
            return False
        return name in names or (any(end in names for end in ends(name)) and layers(name))

    return test


def saved_names(config: LoraAdapterConfig) -> tuple[str, ...]:
    """The ends of module paths that are trained whole: modules_to_save, and the heads that PEFT adds for a task."""
    return (*config.modules_to_save, *_HEADS.get(config.task_type or "", ()))


def excluded_test(config: LoraAdapterConfig, budget: PatternBudget) -> NameTest:
    """Whether PEFT leaves a module out, whatever else targets it."""
    by_name = _excluded_by_name(config, budget)
    if not saved_names(config):
        return by_name
    whole = _saved_whole(config, budget)
    return lambda name: by_name(name) or whole(name)


def _saved_whole(config: LoraAdapterConfig, budget: PatternBudget) -> NameTest:
    """What PEFT leaves out because it is trained whole: ``re.match(rf"(^|.*\\.){name}($|\\..*)", module)``."""
    plain = frozenset(name for name in saved_names(config) if _PLAIN_NAME.fullmatch(name))
    others = [
        budget.compile(rf"(^|.*\.){name}($|\..*)", field="modules_to_save", whole=True)
        for name in saved_names(config)
        if not _PLAIN_NAME.fullmatch(name)
    ]

    def test(name: str) -> bool:
        return any(part in plain for part in parts(name)) or any(other.match(name) is not None for other in others)

    return test


def parts(name: str) -> Iterator[str]:
    """All runs of whole segments of a name."""
    for end in ends(name):
        at = end.find(".")
        while at >= 0:
            yield end[:at]
            at = end.find(".", at + 1)
        yield end


def _excluded_by_name(config: LoraAdapterConfig, budget: PatternBudget) -> NameTest:
    exclude = config.exclude_modules
    if not exclude:
        return lambda _: False
    if isinstance(exclude, str):
        expression = budget.compile(exclude, field="exclude_modules", whole=True)
        return lambda name: expression.match(name) is not None
    names = frozenset(exclude)
    return lambda name: any(end in names for end in ends(name))


def _layer_test(config: LoraAdapterConfig, budget: PatternBudget) -> NameTest:
    if not config.layers_to_transform:
        return lambda _: True
    layers = frozenset(config.layers_to_transform)
    if not config.layers_pattern:

        def first(name: str) -> bool:
            found = _FIRST_INDEX.match(name)
            return found is not None and int(found["idx"]) in layers

        return first
    expressions = [
        budget.compile(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\..*", field="layers_pattern", whole=True)
        for pattern in config.layers_pattern
    ]

    def named(name: str) -> bool:
        found = next(filter(None, (expression.match(name) for expression in expressions)), None)
        return found is not None and int(found["idx"]) in layers

    return named


def is_all_linear(config: LoraAdapterConfig) -> bool:
    """Whether target_modules is PEFT's shorthand for all linear modules."""
    return isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR


def is_linear(config: LoraAdapterConfig, target: Target, table: TargetTable) -> bool:
    """Whether "all-linear" means a module of that kind."""
    if target.kind not in _ALL_LINEAR or target.module == table.output_module:
        return False
    return not (config.task_type == "SEQ_CLS" and target.module in _CLASSIFIERS)


def _inside_attention(module: str, table: TargetTable) -> bool:
    parent = table.targets.get(module.rpartition(".")[0])
    return parent is not None and parent.kind is TargetKind.ATTENTION


def _spelling(trained: Iterable[str], table: TargetTable) -> Callable[[str], str | None]:
    """How the trained model spelled a canonical name; None for modules that it can't have had."""
    lead = table.prefix + "."
    if table.prefix:
        for name in trained:
            if name in table.targets:
                continue
            if lead + name in table.targets:
                return lambda module: module[len(lead) :] if module.startswith(lead) else None
            if name.startswith(lead) and name[len(lead) :] in table.targets:
                return lambda module: lead + module
    return lambda module: module


def sure_test(config: LoraAdapterConfig, table: TargetTable, pairs: Collection[str]) -> NameTest:
    """Whether the trained model surely had a module or parameter of the base; ``pairs`` are the modules adapted."""
    if not table.knows_kinds or _same_class(config, table):
        return lambda _: True
    lead = table.prefix + "."
    if not table.prefix or not any(module.startswith(lead) for module in table.targets):
        lead = ""
    stacks = {_stack(module) for module in pairs}

    def sure(module: str) -> bool:
        stack = _stack(module)
        return stack is not None and stack in stacks and module.startswith(lead)

    return sure


def _same_class(config: LoraAdapterConfig, table: TargetTable) -> bool:
    if table.architecture is None:
        return False
    if config.trained_class is not None:
        return config.trained_class == table.architecture
    return table.architecture.endswith(_TASK_CLASSES.get(config.task_type or "", ("/",)))


def _stack(module: str) -> str | None:
    """The path before the first number of a name: decoder.layers of decoder.layers.3.fc1."""
    found = _NUMBERED.match(module)
    return found["stack"] if found else None


def listed(names: list[str]) -> str:
    """Some names, and how many more follow."""
    some = ", ".join(shown(name) for name in names[:4])
    return some if len(names) <= 4 else f"{some} and {len(names) - 4} more"
