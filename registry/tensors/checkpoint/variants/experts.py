"""Pairs on the matrices of experts: by the parameter (``target_parameters``), or by the names of the base's files.

``target_parameters`` puts pairs on parameters, most of all on the fused matrices of experts (PEFT's ``ParamWrapper``).
The names of the tensors do not identify their parameter. PEFT wraps the parameters of a module in the order in which
its class registers them, one wrapper inside the next: the first is the innermost, ``X.base_layer...lora_A``.
Its A is (experts * rank, in), expert-major, its B (out, rank * experts), rank-major. A parameter of two dimensions is
one matrix (out, in). Rank and alpha are those of the parameter's path.

Adapters trained with transformers 4 name each expert's own projection, which a newer transformers fused. Their names
are those of the base's files (``...experts.3.w1``), so each is a pair on a piece of the fused parameter. Their router
was linear, too; today it is a module of its own that holds the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraAdapterConfig, LoraPair, PeftVersion
from registry.tensors.checkpoint.coverage import is_all_linear, name_test, sure_test
from registry.tensors.checkpoint.field_rules import names
from registry.tensors.checkpoint.fit import ADD_AS_RUNNING, check_factors, meant, unsupported
from registry.tensors.checkpoint.patterns import ends
from registry.tensors.checkpoint.variants.draft import Draft, Variant
from registry.tensors.checkpoint.variants.pairs import A, take_pair
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable

_WEIGHT: Final = ".weight"
_ROUTERS: Final = ("gate", "router")


def fold_file_experts(draft: Draft) -> None:
    """The pairs of all modules that only the files know, and of routers."""
    for name in list(draft.having(A)):
        target = meant(name, draft.table)
        if target is not None:
            if _is_router(target, draft.table):
                _add_router(draft, name, target)
            continue
        found = draft.table.find_file_module(name)
        if found is not None and found.parameter is not None and found.piece is not None:
            _add_piece(draft, name, found.target, found.parameter, found.piece)


def _add_piece(draft: Draft, name: str, target: Target, fused: FusedParameter, piece: Piece) -> None:
    a, b = take_pair(draft, name)
    spelled = piece.tensor.removesuffix(_WEIGHT)
    shape = (piece.out[1] - piece.out[0], fused.in_features)
    kind = TargetKind.CONV1D if piece.transposed else TargetKind.LINEAR
    reading = Target(spelled, kind, piece.tensor, shape[::-1] if piece.transposed else shape)
    rank = check_factors(name, reading, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    pair = LoraPair(spelled, target, a, b, rank, alpha, scaling, fused=fused, piece=piece)
    draft.add_pair(name, pair, by_module=False, by_file=True)


def _is_router(target: Target, table: TargetTable) -> bool:
    """A gate of experts that is no linear module any more: PEFT reads its pair as that of its weight."""
    parent, _, leaf = target.module.rpartition(".")
    experts = table.targets.get(f"{parent}.experts")
    return (
        target.kind is TargetKind.UNKNOWN
        and leaf in _ROUTERS
        and len(target.shape) == 2
        and target.tensor is not None
        and experts is not None
        and experts.kind is TargetKind.EXPERTS
    )


def _add_router(draft: Draft, name: str, target: Target) -> None:
    a, b = take_pair(draft, name)
    rank = check_factors(name, target, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    pair = LoraPair(f"{target.module}{_WEIGHT}", target, a, b, rank, alpha, scaling, parameter="weight")
    draft.add_pair(name, pair, by_module=False, by_file=True)


def finish_file_experts(draft: Draft) -> None:
    """An adapter that names experts of the files one by one has to name all that its configuration targets."""
    config = draft.config
    by_file = any(pair.piece is not None for pair in draft.pairs.values())
    if not by_file or not config.target_modules or is_all_linear(config):
        return
    test = name_test(config, draft.budget)
    surely = sure_test(config, draft.table, list(draft.pairs))
    missing = [name for name in _file_modules(draft.table) if name not in draft.pairs and test(name) and surely(name)]
    if missing:
        raise InvalidAdapterError(
            f"The configuration targets {shown(missing[0])}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, for which the adapter has no tensors. "
            "Save it again, or correct target_modules.",
            code="incomplete_adapter",
        )


def _file_modules(table: TargetTable) -> list[str]:
    """Names of the modules in the files that are pieces of fused parameters."""
    return [
        piece.tensor.removesuffix(_WEIGHT)
        for target in table.targets.values()
        for fused in target.fused
        for piece in fused.pieces
        if piece.tensor.endswith(_WEIGHT) and piece.matrix == 0
    ]


FILE_EXPERTS: Final = Variant("experts by file", fold=fold_file_experts, finish=finish_file_experts)


WRAPPED: Final = ".base_layer"
FIRST_RIGHT: Final = PeftVersion(0, 19, 1)
"""The first PEFT that never takes in and out features of a fused parameter for each other (huggingface/peft #3165)."""

_TRIED: Final = 6  # parameters of one module whose orders are tried


@dataclass(frozen=True)
class Wanted:
    """A parameter of a module that target_parameters names."""

    name: str
    target: Target  # a linear reading of a parameter of two dimensions, or the module of a fused one
    fused: FusedParameter | None = None

    def fits(self, a: TensorEntry, b: TensorEntry) -> tuple[bool, bool]:
        """Whether the factors fit as they should, and with in and out taken for each other."""
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            return False, False
        if self.fused is None:
            return (a.shape[1], b.shape[0]) == (self.target.in_features, self.target.out_features), False
        if a.shape[0] % self.fused.experts:
            return False, False
        sides = self.fused.in_features, self.fused.out_features
        return (a.shape[1], b.shape[0]) == sides, (b.shape[0], a.shape[1]) == sides


def fold_parameters(draft: Draft) -> None:
    """The pairs of all parameters that the configuration names."""
    asked = frozenset(draft.config.target_parameters)
    if not asked:
        return
    for module, wrappers in _wrapped_modules(draft).items():
        fused, plain = _wanted(draft, module, asked)
        if not fused and not plain:
            continue
        entries = [take_pair(draft, wrapper) for wrapper in wrappers]
        order = _order(module, wrappers, fused, plain, entries)
        for wrapper, wanted, (a, b) in zip(wrappers, order, entries, strict=True):
            _add(draft, module, wrapper, wanted, a, b)


def _wrapped_modules(draft: Draft) -> dict[str, list[str]]:
    """Module -> its wrappers as the checkpoint spells them, the innermost first."""
    found: dict[str, list[str]] = {}
    for name in draft.having(A):
        module = name
        while module.endswith(WRAPPED):
            module = module.removesuffix(WRAPPED)
        found.setdefault(module, []).append(name)
    return {module: sorted(wrappers, key=len, reverse=True) for module, wrappers in found.items()}


def is_asked(path: str, asked: frozenset[str]) -> bool:
    """Whether PEFT would adapt the parameter of that path."""
    return any(end in asked for end in ends(path))


def _wanted(draft: Draft, module: str, asked: frozenset[str]) -> tuple[list[Wanted], list[Wanted]]:
    """The parameters of a module that are adapted: the fused ones in their order, and those of two dimensions."""
    target = meant(module, draft.table)
    if target is None:
        return [], []
    fused = [Wanted(one.name, target, one) for one in target.fused if is_asked(f"{module}.{one.name}", asked)]
    plain = []
    for leaf, held in draft.table.parameters_of(target.module).items():
        if len(held.shape) == 2 and is_asked(f"{module}.{leaf}", asked):
            plain.append(Wanted(leaf, _linear(module, target, leaf, held)))
    if not plain and target.tensor is None and target.tie is not None and is_asked(f"{module}.weight", asked):
        raise unsupported(
            module, "shares its weight with another module, but target_parameters names it",
            "Name the module in target_modules instead.",
        )  # fmt: skip
    return fused, plain


def _linear(module: str, target: Target, leaf: str, held: FileParameter) -> Target:
    if leaf != "weight":
        tensor = None if held.runs else held.tensor
        return Target(f"{target.module}.{leaf}", TargetKind.LINEAR, tensor, held.shape, runs=held.runs)
    if target.transposed:
        raise unsupported(
            module,
            f"is of kind {target.kind} and keeps its weight as (in, out), which PEFT reads as (out, in) when "
            "target_parameters names it",
            "Name the module in target_modules instead.",
        )
    return target


def _order(
    module: str,
    wrappers: Sequence[str],
    fused: list[Wanted],
    plain: list[Wanted],
    entries: Sequence[tuple[TensorEntry, TensorEntry]],
) -> list[Wanted]:
    """Which parameter each wrapper belongs to, the innermost first.

    The fused parameters are known in their order. Where the module has others too, the shapes have to leave one way to
    put them between.
    """
    count = len(fused) + len(plain)
    expected = [module + WRAPPED * depth for depth in range(count - 1, -1, -1)]
    if list(wrappers) != expected:
        known = ", ".join(shown(wanted.name) for wanted in (*fused, *plain))
        raise InvalidAdapterError(
            f"The adapter has {len(wrappers)} pairs for parameters of {shown(module)}, but target_parameters names "
            f"{count} there ({known}). Save the adapter again.",
            code="incomplete_adapter",
        )
    if not plain:
        return fused
    ways = [
        way
        for way in _interleavings(fused, plain)
        if all(any(wanted.fits(*pair)) for wanted, pair in zip(way, entries, strict=True))
    ]
    if len(ways) == 1 or count == 1:
        return ways[0] if ways else [*fused, *plain]
    raise unsupported(
        module,
        f"has {len(ways)} ways to assign the adapter's pairs to its parameters: their order is not known",
        "Train an adapter for each parameter.",
    )


def _interleavings(fused: list[Wanted], plain: list[Wanted]) -> Iterator[list[Wanted]]:
    """All orders of a few parameters that keep that of the fused ones."""
    if len(fused) + len(plain) > _TRIED:
        return
    for way in permutations((*fused, *plain)):
        if [wanted for wanted in way if wanted.fused is not None] == fused:
            yield list(way)


def _add(draft: Draft, module: str, wrapper: str, wanted: Wanted, a: TensorEntry, b: TensorEntry) -> None:
    path = f"{module}.{wanted.name}"
    right, turned = wanted.fits(a, b)
    if not right and not turned:
        raise _misfit(path, wanted, a, b)
    fused = wanted.fused
    if fused is not None:
        turned = _is_turned(draft.config, path, fused, right, turned)
        if not fused.pieces:
            raise unsupported(
                path,
                "is a parameter that the base's files store in a form that is not supported",
                f"Train without it, or {ADD_AS_RUNNING}.",
            )
        if fused.experts == 1 and (fused.transposed or turned):
            raise unsupported(
                path,
                "has one expert and is stored as (in, out), which PEFT multiplies in the wrong order",
                "Train without it.",
            )
    rank = a.shape[0] // (fused.experts if fused is not None else 1)
    alpha, scaling = draft.scaled(path, rank, a)
    canonical = wanted.target.module
    if fused is not None or wanted.name == "weight":
        canonical = f"{wanted.target.module}.{wanted.name}"
    pair = LoraPair(
        canonical, wanted.target, a, b, rank, alpha, scaling, fused=fused, parameter=wanted.name, turned=turned
    )
    draft.add_pair(wrapper, pair, by_module=False)


def _is_turned(config: LoraAdapterConfig, path: str, fused: FusedParameter, right: bool, turned: bool) -> bool:
    """Whether in and out were taken for each other: by the shapes, and where they are equal by the version of PEFT.

    Before 0.19.1 the square case depends on the version of transformers too, which patched PEFT in between.
    """
    if not (right and turned):
        return turned
    if config.version is not None and config.version >= FIRST_RIGHT:
        return False
    raise InvalidAdapterError(
        f"The parameter {shown(path)} has {fused.in_features} features on both sides, and peft_version in "
        f"adapter_config.json is {shown(config.peft_version)}: PEFT before {FIRST_RIGHT} could confuse in and out, "
        f"and the file does not show which. Load it with PEFT {FIRST_RIGHT} or later, check what it does, and save it "
        "again.",
        code="unsupported_layout",
    )


def _misfit(path: str, wanted: Wanted, a: TensorEntry, b: TensorEntry) -> InvalidAdapterError:
    one = wanted.fused
    experts, out, inputs = (
        (one.experts, one.out_features, one.in_features)
        if one is not None
        else (1, wanted.target.out_features, wanted.target.in_features)
    )
    times = f" * {experts}" if one is not None else ""
    return InvalidAdapterError(
        f"Tensors {shown(a.name)} and {shown(b.name)} have shapes {a.shape} and {b.shape}, expected (rank{times}, "
        f"{inputs}) and ({out}, rank{times}) for the parameter {shown(path)} of the base model. Publish it under the "
        "base model that it was trained on.",
        code="shape_mismatch",
    )


def finish_parameters(draft: Draft) -> None:
    """Refuse an adapter that has pairs for some parameters of a name and not for others of the same stack."""
    asked = frozenset(draft.config.target_parameters)
    if not asked:
        return
    surely = sure_test(draft.config, draft.table, draft.modules)
    paths = [f"{module}.{fused.name}" for module, target in draft.table.targets.items() for fused in target.fused] + [
        name for name, held in draft.table.parameters.items() if len(held.shape) == 2
    ]
    missing = [path for path in paths if is_asked(path, asked) and path not in draft.pairs and surely(path)]
    if missing:
        raise InvalidAdapterError(
            f"The configuration targets the parameter {shown(missing[0])}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, for which the adapter has no tensors. "
            "Save it again, or correct target_parameters.",
            code="incomplete_adapter",
        )


PARAMETERS: Final = Variant(
    "parameters", fields={"target_parameters": names}, fold=fold_parameters, finish=finish_parameters
)
