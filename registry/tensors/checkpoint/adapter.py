"""What an adapter does to its base, and the settings of its configuration, once every check has passed.

The content of a checkpoint is grouped by module. It has two sorts of parts: pairs (A, B), which add ``scaling * B A``,
with an optional added bias and DoRA magnitude; and absolute values, which replace the base's (whole parameters,
biases, token rows). Within one adapter the values are set first, then the pairs are added, then DoRA rescales: the
order of PEFT's loader and merge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from registry.files.header import TensorEntry
from registry.images.expressions import ComputedEntry, tensors_of
from registry.images.normal_form import SwappedHalves
from registry.tensors.checkpoint.computed import Computed
from registry.tensors.checkpoint.factors import (
    BlockDiagonal,
    ExpertA,
    ExpertB,
    FactorMatrix,
    Plain,
    Swapped,
    TurnedExpertA,
    TurnedExpertB,
)
from registry.tensors.table.parameters import FusedParameter, Piece
from registry.tensors.table.targets import Target

_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(.*)", re.DOTALL)
_FINAL: Final = re.compile(r"(?:\.?post\d+)?(?:[@+].*)?", re.DOTALL)


@dataclass(frozen=True, order=True)
class PeftVersion:
    """A version of PEFT; ``(0, 21, 3, False)`` is a development state before 0.21.3."""

    major: int
    minor: int
    patch: int
    final: bool = True

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}{'' if self.final else '.dev0'}"


@dataclass(frozen=True)
class LoraAdapterConfig:
    """The fields of adapter_config.json about the weights.

    ``document`` is the file as it is, keys in file order: the order of patterns carries meaning. ``values`` has what
    the rule of each field made of it.
    """

    document: Mapping[str, Any]
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    target_modules: tuple[str, ...] | str | None = None  # a string is a regular expression or "all-linear"
    exclude_modules: tuple[str, ...] | str | None = None
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    peft_version: str | None = None
    trained_class: str | None = None  # class of the model that was trained, where PEFT recorded it
    values: Mapping[str, Any] = field(default_factory=dict)

    def scaling(self, rank: int, alpha: float) -> float:
        """Factor of B A for a module: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023)."""
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    @property
    def version(self) -> PeftVersion | None:
        """The version of PEFT that wrote the adapter; None if it is not recorded or can't be read."""
        found = _VERSION.fullmatch(self.peft_version or "")
        if found is None:
            return None
        return PeftVersion(int(found[1]), int(found[2]), int(found[3] or 0), _FINAL.fullmatch(found[4]) is not None)


@dataclass(frozen=True)
class LoraPair:
    """The pair of one target: its weight changes by ``scaling`` B A in oriented space (out x in).

    For experts (`fused` is set) A is (experts * rank, in_features), expert-major, and B (out_features, rank * experts),
    rank-major: one pair of the given rank for each expert. Read the factors of one by `expert_matrices`.
    """

    module: str  # canonical name in the target table; for a parameter its path, ...experts.gate_up_proj
    target: Target  # of the module
    a: TensorEntry  # (rank, in_features); for a convolution (rank, in / groups, kernel...)
    b: TensorEntry  # (out_features, rank); for a convolution (out, rank, 1...)
    rank: int
    alpha: float
    scaling: float
    magnitude: TensorEntry | None = None  # DoRA: out_features elements, or those of a `ColumnMagnitude`
    bias: TensorEntry | None = None  # lora_bias: the module's bias changes by scaling * bias
    fused: FusedParameter | None = None
    piece: Piece | None = None  # with `fused`: the pair is of this piece alone (an expert of transformers 4)
    parameter: str = ""  # of `target_parameters`: its name in the module (weight, gate_up_proj); `module` ends with it
    turned: bool = False  # with `fused`: written by a PEFT that took in and out for each other, see `turned_experts`
    blocks_a: int = 1  # BD-LoRA: A is the blocks of a block-diagonal matrix
    blocks_b: int = 1
    tied: bool = False  # ensure_weight_tying: also changes the module that shares the weight

    @property
    def a_matrix(self) -> FactorMatrix:
        """A as a matrix (rank, in_features); not for experts."""
        if isinstance(self.a, ComputedEntry):
            return Computed(self.a)
        return Plain(self.a) if self.blocks_a == 1 else BlockDiagonal(self.a, self.blocks_a)

    @property
    def b_matrix(self) -> FactorMatrix:
        """B as a matrix (out_features, rank); not for experts."""
        if isinstance(self.b, ComputedEntry):
            return Computed(self.b)
        if isinstance(self.b, SwappedHalves):
            return Swapped(self.b)
        return Plain(self.b) if self.blocks_b == 1 else BlockDiagonal(self.b, self.blocks_b)

    def expert_matrices(self, piece: Piece) -> tuple[FactorMatrix, FactorMatrix]:
        """A (rank, in_features) and B (output features of the piece, rank) of one piece of `fused`."""
        if self.fused is None:
            raise ValueError(f"{self.module} is no group of experts")
        if self.piece is not None:
            return self.a_matrix, self.b_matrix
        if self.turned:
            return (
                TurnedExpertA(self.b, piece.expert, self.fused.experts),
                TurnedExpertB(self.a, piece.expert, self.rank, piece.out),
            )
        return (
            ExpertA(self.a, piece.expert, self.rank),
            ExpertB(self.b, piece.expert, self.fused.experts, piece.out),
        )

    @property
    def parameters(self) -> int:
        """Elements of all its tensors."""
        others = (entry for entry in (self.magnitude, self.bias) if entry is not None)
        return sum(entry.elements for entry in (*self.stored, *others))

    @property
    def stored(self) -> tuple[TensorEntry, ...]:
        """The tensors of the file that the factors are, or are computed from: a zero one makes the change zero."""
        return tuple(
            one
            for entry in (self.b, self.a)
            for one in (tensors_of(entry.made) if isinstance(entry, ComputedEntry) else (entry,))
        )


@dataclass(frozen=True)
class NewValue:
    """A whole parameter that is replaced (modules_to_save, a trained bias), or one that the base lacks."""

    entry: TensorEntry
    parameter: str  # canonical runtime name: lm_head.weight
    tied: bool = False  # the module that shares the weight takes the value too
    names: tuple[str, ...] = ()  # by which the checkpoint has it: others than `parameter` where it is tied to that


@dataclass(frozen=True)
class AddedValue:
    """What is added to a parameter of one dimension that has no pair of its own: a norm's weight, a bias."""

    entry: TensorEntry
    parameter: str  # canonical runtime name


@dataclass(frozen=True)
class Diagonal:
    """What the rows of a module's weight, or its columns (``by_input``), are multiplied by: 1 + ``entry`` (IA3)."""

    entry: TensorEntry
    target: Target
    by_input: bool


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding that are replaced (``trainable_token_indices``)."""

    entry: TensorEntry  # (tokens, features)
    target: Target
    tokens: tuple[int, ...]  # row i of `entry` belongs to token tokens[i]
    tied: bool = True  # the modules that share the weight take the rows too; False: this module alone


@dataclass(frozen=True)
class Twin:
    """Two tensors of a checkpoint that have to hold the same numbers: PEFT saves what is tied once for each side.

    Names and shapes fit; that the numbers are equal is for the caller to check.
    """

    first: TensorEntry  # the one that counts
    second: TensorEntry
    transposed: bool = False  # second is first, transposed


@dataclass(frozen=True)
class Checkpoint:
    """What an adapter does to its base, from its headers."""

    config: LoraAdapterConfig
    pairs: Mapping[str, LoraPair]  # by `LoraPair.module`, sorted
    values: Mapping[str, NewValue]  # by `NewValue.parameter`, sorted
    tokens: Mapping[str, TokenRows]  # by module, sorted
    copies: Mapping[str, TensorEntry]  # module -> copy of its whole weight, as it was trained on
    notices: tuple[str, ...]
    twins: tuple[Twin, ...] = ()
    constants: Mapping[str, TensorEntry] = field(default_factory=dict)  # parameter -> whole numbers, as the base's
    saved: tuple[str, ...] = ()  # modules that were trained whole (modules_to_save), none inside another
    alphas: tuple[tuple[TensorEntry, float], ...] = ()  # tensors that have to hold the configuration's alpha
    added: Mapping[str, AddedValue] = field(default_factory=dict)  # by `AddedValue.parameter`, sorted
    diagonals: Mapping[str, Diagonal] = field(default_factory=dict)  # by module, sorted
    untargeted: tuple[str, ...] = ()  # modules with a pair that the configuration does not target, as spelled

    @cached_property
    def rank(self) -> int:
        """The largest rank of a pair; 0 without pairs."""
        return max((pair.rank for pair in self.pairs.values()), default=0)

    @cached_property
    def parameters(self) -> int:
        """Elements of everything that was trained."""
        return (
            sum(pair.parameters for pair in self.pairs.values())
            + sum(value.entry.elements for value in self.values.values())
            + sum(rows.entry.elements for rows in self.tokens.values())
            + sum(value.entry.elements for value in self.added.values())
            + sum(diagonal.entry.elements for diagonal in self.diagonals.values())
        )
