"""Rules of engines."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

ENGINES: Final = (
    Mutant(
        "a-rank-that-is-just-too-large",
        "_reasons",
        "parts.rank > limit",
        "parts.rank > limit + 1",
        "test_a_rank_above_the_limit_is_truncated_where_an_error_is_allowed",
    ),
    Mutant(
        "the-rank-of-the-configuration-alone",
        "parts_of",
        'max([int(config["r"]), *map(int, config["rank_pattern"].values())])',
        'min([int(config["r"]), *map(int, config["rank_pattern"].values())])',
        "test_resolver.py",
    ),
    Mutant(
        "truncated-whatever-the-rank",
        "options_for",
        "truncates = not found.loads and options.max_error is not None",
        "truncates = options.max_error is not None",
        "test_a_rank_above_the_limit_is_truncated_where_an_error_is_allowed",
    ),
    Mutant(
        "other-reasons-forgotten",
        "options_for",
        "if others or (not found.loads and not truncates):",
        "if not found.loads and not truncates:",
        "test_what_else_is_refused_is_refused_whatever_error_is_allowed",
    ),
    Mutant(
        "stacked-with-one-of-them",
        "_lacks",
        "return any(",
        "return all(",
        "test_check_says_what_the_loader_does",
    ),
    Mutant(
        "a-matrix-is-an-expert",
        "_is_matrix",
        "return first[module][0] ==",
        "return first[module][0] !=",
        "test_a_parameter_of_two_dimensions_is_no_expert",
    ),
    Mutant(
        "a-head-of-two-modules-is-one",
        "_of_config",
        "for held in holders)} | holders,",
        "for held in ())},",
        "test_vllm_takes_heads_that_are_one_module",
    ),
    Mutant(
        "names-of-one-model-type-are-taken-on-all",
        "Rule.loads",
        "if model_type is None:",
        "if True:",
        "test_names_that_a_model_class_has_are_taken",
    ),
)
