"""The trainable factors of a sibling in one module, as PEFT makes and applies them.

Sources: Hu et al. 2021 (arXiv:2106.09685), rsLoRA of Kalajdzievski 2023 (arXiv:2312.03732), DoRA of Liu et al. 2024
(arXiv:2402.09353, section 4.3 for the detached norm); `peft/tuners/lora/layer.py` and `dora.py` of PEFT 0.21. Scalings
are applied where PEFT applies them, so that both round alike.

Which modules of a running model a sibling trains: the rules of PEFT, applied to the modules that it has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from registry.errors import UsageError
from registry.pool.parallel_training.recipe import Recipe
from registry.pool.weight_readers import Readers, is_conv1d
from registry.tensors.checkpoint.coverage import excluded_test, is_all_linear, name_test, saved_names
from registry.tensors.checkpoint.patterns import PatternBudget, PatternMap

_HEADS = ("classifier", "score")


@dataclass(frozen=True, eq=False)
class Target:
    """A module that gets a pair of factors."""

    name: str
    module: nn.Module
    rank: int
    scaling: float


@dataclass(frozen=True)
class Targets:
    """All that one sibling trains, in the order of the model's modules."""

    pairs: tuple[Target, ...]
    saved: dict[str, nn.Module]  # modules that it has a copy of its own of


def find_targets(model: nn.Module, recipe: Recipe) -> Targets:
    """The modules that a recipe names.

    Raises:
        UsageError: it has none of them; ``unsupported_model``: one of them is of a kind that is not trained here.
        InvalidAdapterError: ``bad_config``: a pattern is malformed.
    """
    config, budget = recipe.config, PatternBudget()
    modules = {name: module for name, module in model.named_modules() if name}
    ranks = PatternMap(config.rank_pattern, field="rank_pattern", budget=budget)
    alphas = PatternMap(config.alpha_pattern, field="alpha_pattern", budget=budget)
    if is_all_linear(config):
        names = list(_all_linear(model, modules, recipe, budget))
    else:
        test = name_test(config, budget)
        names = [name for name in modules if test(name)]
    pairs, readers = [], Readers(model)
    for name in names:
        _check_kind(recipe.path, name, modules, readers)
        rank = ranks.resolve(name)[0] or config.r
        alpha = alphas.resolve(name)[0]
        scaling = config.scaling(rank, config.lora_alpha if alpha is None else alpha)
        pairs.append(Target(name, modules[name], rank, scaling))
    if not pairs:
        raise UsageError(f"{recipe.path}: target_modules names no module of the model.")
    return Targets(tuple(pairs), _saved(model, modules, recipe))


def _all_linear(
    model: nn.Module, modules: dict[str, nn.Module], recipe: Recipe, budget: PatternBudget
) -> Iterator[str]:
    """What PEFT takes for "all-linear": not the output embedding, and not the head of a sequence classifier."""
    excluded = excluded_test(recipe.config, budget)
    output = getattr(model, "get_output_embeddings", lambda: None)()
    heads = () if output is not None or recipe.config.task_type != "SEQ_CLS" else _HEADS
    for name, module in modules.items():
        linear = isinstance(module, nn.Linear) or is_conv1d(module)
        if linear and module is not output and name not in heads and not excluded(name):
            yield name


def _saved(model: nn.Module, modules: dict[str, nn.Module], recipe: Recipe) -> dict[str, nn.Module]:
    wanted = saved_names(recipe.config)
    found = {name: module for name, module in modules.items() if name.endswith(wanted)} if wanted else {}
    within = {name for name in found if any(name.startswith(f"{other}.") for other in found)}
    holders: dict[int, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        holders.setdefault(id(tensor), set()).add(name)
    for name, module in found.items():
        tied = [holders[id(one)] for one in module.parameters() if len(holders[id(one)]) > 1]
        if tied:
            raise _unsupported(
                recipe.path,
                name,
                f"shares a weight with another module ({', '.join(sorted(tied[0]))}), and a copy of "
                "its own would part them",
            )
    if recipe.config.modules_to_save and not found:
        raise UsageError(f"{recipe.path}: modules_to_save names no module of the model.")
    return {name: module for name, module in found.items() if name not in within}


def _check_kind(path: str, name: str, modules: dict[str, nn.Module], readers: Readers) -> None:
    module = modules[name]
    for reader in readers.of(module, "weight"):
        raise _unsupported(path, name, f"is read by {type(reader).__name__}, which does not call it")
    if "experts" in name.split(".")[:-1]:
        raise _unsupported(path, name, "is of one expert, which is given tokens of all rows in an order of its own")
    if isinstance(module, nn.Embedding):
        if module.max_norm is not None or module.sparse:
            raise _unsupported(path, name, "is an embedding that changes its weight or has sparse gradients")
    elif not isinstance(module, nn.Linear) and not is_conv1d(module):
        raise _unsupported(path, name, f"is a {type(module).__name__}: linear modules and embeddings are trained")


def _unsupported(path: str, name: str, reason: str) -> UsageError:
    return UsageError(f"{path}: the module {name!r} {reason}. Leave it out.", code="unsupported_model")


_HALF = (torch.float16, torch.bfloat16)


class Dropout:
    """Dropout from a stream of a sibling's own, which no other sibling and no padding of others moves."""

    def __init__(self, probability: float, generator: torch.Generator) -> None:
        self.probability = probability
        self._generator = generator

    def __call__(self, rows: torch.Tensor, window: slice | None) -> torch.Tensor:
        """Drop elements of (rows, positions, features); outside of the window all stay, as nothing reads them."""
        used = rows if window is None or rows.dim() < 3 else rows[:, window]
        kept = torch.empty(used.shape, dtype=rows.dtype, device=rows.device)
        kept.bernoulli_(1 - self.probability, generator=self._generator).div_(1 - self.probability)
        if used is rows:
            return rows * kept
        mask = torch.ones_like(rows)
        mask[:, window] = kept
        return rows * mask


class Pair(nn.Module, ABC):
    """A and B of one module, and its magnitudes with DoRA."""

    a: nn.Parameter  # (rank, in)
    b: nn.Parameter  # (out, rank)
    magnitude: nn.Parameter | None  # (out,)

    def __init__(
        self, target: Target, recipe: Recipe, generator: torch.Generator, dropout: Dropout | None = None
    ) -> None:
        super().__init__()
        self.scaling = target.scaling
        self.dropout = dropout
        weight = target.module.get_parameter("weight")
        dtype = torch.float32 if weight.dtype in _HALF else weight.dtype
        a, b = self._begin(recipe.initial, target, generator)
        self.a = nn.Parameter(a.to(weight.device, dtype))
        self.b = nn.Parameter(b.to(weight.device, dtype))
        self.magnitude = None
        if recipe.config.use_dora:
            norm = self._norm(target.module)
            if not bool((norm > 0).all()):
                raise UsageError(
                    f"{recipe.path}: the module {target.name!r} has an output feature without weight, by whose norm "
                    "DoRA divides. Leave it out.",
                    code="unsupported_model",
                )
            self.magnitude = nn.Parameter(norm)

    @abstractmethod
    def _begin(
        self, initial: bool | str, target: Target, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B before training."""

    @property
    def is_plain(self) -> bool:
        """Whether all that it does is to add the product, which `low_rank` makes for all siblings at once."""
        return False

    def drop(self, rows: torch.Tensor, window: slice | None) -> torch.Tensor:
        """The module's input with its own dropout."""
        return rows if self.dropout is None else self.dropout(rows.to(self.a.dtype), window)

    @abstractmethod
    def apply_to(self, out: torch.Tensor, module: nn.Module, rows: torch.Tensor, *, dropped: bool) -> torch.Tensor:
        """The module's output in place of ``out``, for its input ``rows``, which may have been through dropout."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by the ends of the names that PEFT saves them under."""

    @abstractmethod
    def _oriented(self, module: nn.Module) -> torch.Tensor:
        """The module's weight as (out, in)."""

    def _norm(self, module: nn.Module) -> torch.Tensor:
        """The norm of each row of W + s B A, which is a constant to the gradient."""
        with torch.no_grad():
            weight = self._oriented(module).to(self.a.dtype)
            norm: torch.Tensor = torch.linalg.norm(weight + self.scaling * (self.b @ self.a), dim=1)
            return norm


class LinearPair(Pair):
    """Of a linear module, or of transformers' Conv1D, whose weight is stored as (in, out)."""

    def _begin(
        self, initial: bool | str, target: Target, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, width = self._oriented(target.module).shape
        a, b = torch.empty(target.rank, width), torch.zeros(out, target.rank)
        if initial == "gaussian":
            nn.init.normal_(a, std=1 / target.rank, generator=generator)
        else:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        if initial is False:
            nn.init.kaiming_uniform_(b, a=math.sqrt(5), generator=generator)
        return a, b

    @property
    def is_plain(self) -> bool:
        return self.magnitude is None

    def apply_to(self, out: torch.Tensor, module: nn.Module, rows: torch.Tensor, *, dropped: bool) -> torch.Tensor:
        if self.magnitude is None:
            raise AssertionError("plain pairs are added by `low_rank`")
        rows = rows.to(self.a.dtype)
        low = functional.linear(functional.linear(rows, self.a), self.b)
        factor = self.magnitude / self._norm(module)
        if dropped:
            base = functional.linear(rows, self._oriented(module).to(rows.dtype))
        else:
            bias = module._parameters.get("bias")
            base = out if bias is None else out - bias
        return out + ((factor - 1) * base + factor * low * self.scaling)

    def tensors(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {"lora_A.weight": self.a, "lora_B.weight": self.b}
        return found if self.magnitude is None else {**found, "lora_magnitude_vector": self.magnitude}

    def _oriented(self, module: nn.Module) -> torch.Tensor:
        weight = module.get_parameter("weight")
        return weight.T if is_conv1d(module) else weight


class EmbeddingPair(Pair):
    """Of an embedding, whose weight is stored as (in, out); PEFT applies no dropout to it."""

    def _begin(
        self, initial: bool | str, target: Target, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, width = self._oriented(target.module).shape
        a, b = torch.zeros(target.rank, width), torch.empty(out, target.rank)
        nn.init.normal_(b, generator=generator)
        if initial is False:
            nn.init.normal_(a, generator=generator)
        return a, b

    def apply_to(self, out: torch.Tensor, module: nn.Module, rows: torch.Tensor, *, dropped: bool) -> torch.Tensor:
        if not isinstance(module, nn.Embedding) or dropped:
            raise AssertionError("an embedding's input is not dropped")
        picked = functional.embedding(
            rows, self.a.T, padding_idx=module.padding_idx, scale_grad_by_freq=module.scale_grad_by_freq
        )
        low = functional.linear(picked, self.b)
        scale = getattr(module, "embed_scale", None)  # of Gemma: the module multiplies what it looked up
        if self.magnitude is None:
            low = low * self.scaling
            return out + (low if scale is None else low * scale)
        factor = self.magnitude / self._norm(module)
        low = factor * low * self.scaling
        return factor * out + (low if scale is None else low * scale)

    def tensors(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {"lora_embedding_A": self.a, "lora_embedding_B": self.b}
        return found if self.magnitude is None else {**found, "lora_magnitude_vector": self.magnitude}

    def _oriented(self, module: nn.Module) -> torch.Tensor:
        return module.get_parameter("weight").T


def make_pair(target: Target, recipe: Recipe, generator: torch.Generator, dropout: Dropout | None) -> Pair:
    """The factors of a module before training, from a sibling's own stream.

    Raises:
        UsageError: ``unsupported_model``: DoRA would divide by a norm that is zero.
    """
    if isinstance(target.module, nn.Embedding):
        return EmbeddingPair(target, recipe, generator)
    return LinearPair(target, recipe, generator, dropout)
