"""Which modules of a running model a sibling trains: the rules of PEFT, held against the modules that are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from registry.errors import UsageError
from registry.pool.beside.forms import is_conv1d
from registry.pool.beside.readers import Readers
from registry.pool.siblings.recipe import Recipe
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
        UsageError: there are none; ``unsupported_model``: one of them is of a kind that is not trained here.
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
