"""Which ranks are kept: caps, error bounds over all modules together; small problems against every possible choice."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import AccuracyError, UsageError
from registry.schemas.artifacts import check_ranks
from registry.tensors.truncation import rank_choice
from registry.tensors.truncation.rank_choice import (
    ModuleSpectrum,
    capped,
    choose_ranks,
    enough_rank,
    relative_error,
)


def spectrum(module: str, values: Sequence[float], cost: int = 1) -> ModuleSpectrum:
    return ModuleSpectrum(module, 8, cost, (tuple(sorted(values, reverse=True)),))


def elements(modules: Sequence[ModuleSpectrum], ranks: Mapping[str, int]) -> int:
    return sum(module.cost * ranks[module.module] for module in modules)


def naive_error(modules: Sequence[ModuleSpectrum], ranks: Mapping[str, int]) -> float:
    kept = [v**2 for m in modules for values in m.spectra for v in values[: ranks[m.module]]]
    whole = [v**2 for m in modules for values in m.spectra for v in values]
    left_out = [v**2 for m in modules for values in m.spectra for v in values[ranks[m.module] :]]
    assert len(kept) + len(left_out) == len(whole)
    return math.sqrt(math.fsum(left_out) / math.fsum(whole)) if any(whole) else 0.0


def cheapest(modules: Sequence[ModuleSpectrum], cap: int, error: float) -> int | None:
    """The fewest elements of all choices within the bound, by trying every one."""
    choices = itertools.product(*[range(1, min(cap, module.most) + 1) for module in modules])
    named = [{module.module: rank for module, rank in zip(modules, choice, strict=True)} for choice in choices]
    return min((elements(modules, ranks) for ranks in named if relative_error(modules, ranks) <= error), default=None)


@st.composite
def models(draw: st.DrawFn) -> list[ModuleSpectrum]:
    value = st.sampled_from([0.25, 0.5, 1.0, 1.0, 2.0, 7.0]) | st.floats(1e-6, 10)
    values = st.lists(value, max_size=4).map(lambda found: tuple(sorted(found, reverse=True)))
    made = []
    for number in range(draw(st.integers(1, 4))):
        spectra = draw(st.lists(values, min_size=1, max_size=2))
        made.append(ModuleSpectrum(f"m{number}", 8, draw(st.sampled_from([3, 5, 7, 12])), tuple(spectra)))
    return made


errors = st.sampled_from([0.0, 0.01, 0.1, 0.3]) | st.floats(0, 0.99)


@settings(deadline=None)
@given(modules=models(), cap=st.none() | st.integers(1, 5), error=errors)
def test_no_choice_within_the_bound_is_smaller(modules: list[ModuleSpectrum], cap: int | None, error: float) -> None:
    best = cheapest(modules, cap or 8, error)
    if best is None:
        with pytest.raises(AccuracyError):
            choose_ranks(modules, rank=cap, max_error=error)
        return
    ranks = choose_ranks(modules, rank=cap, max_error=error)
    assert relative_error(modules, ranks) <= error
    assert naive_error(modules, ranks) == pytest.approx(relative_error(modules, ranks), abs=1e-12)
    assert all(1 <= ranks[module.module] <= min(cap or 8, module.most) for module in modules)
    assert elements(modules, ranks) == best


@settings(deadline=None)
@given(modules=models(), steps=st.sampled_from([0, 1, 3]), error=errors)
def test_search_cut_short_is_within_one_rank_and_not_wasteful(
    modules: list[ModuleSpectrum], steps: int, error: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_choice, "SEARCH_STEPS", steps)
        ranks = choose_ranks(modules, max_error=error)
    best = cheapest(modules, 8, error)
    assert best is not None
    assert relative_error(modules, ranks) <= error
    assert elements(modules, ranks) < best + max(module.cost for module in modules)
    for module in modules:  # no single rank can be taken off
        fewer = {**ranks, module.module: ranks[module.module] - 1}
        # Cut short, it leaves the margin of its sums unused.
        assert fewer[module.module] == 0 or relative_error(modules, fewer) > error * (1 - 1e-9)


@settings(deadline=None)
@given(modules=models(), cap=st.integers(1, 5))
def test_asking_for_a_reported_error_gives_no_more_elements(modules: list[ModuleSpectrum], cap: int) -> None:
    ranks = choose_ranks(modules, rank=cap)
    assert ranks == capped(modules, cap)
    reached = relative_error(modules, ranks)
    assert elements(modules, choose_ranks(modules, max_error=reached)) <= elements(modules, ranks)
    assert elements(modules, choose_ranks(modules, rank=cap, max_error=reached)) <= elements(modules, ranks)


@settings(deadline=None)
@given(modules=models(), error=errors)
def test_enough_rank_is_the_smallest_cap(modules: list[ModuleSpectrum], error: float) -> None:
    enough = enough_rank(modules, error)
    assert enough is not None
    assert relative_error(modules, capped(modules, enough)) <= error
    assert enough == 1 or relative_error(modules, capped(modules, enough - 1)) > error


def test_rank_goes_where_it_matters() -> None:
    modules = [spectrum("strong", [10, 9, 8, 7]), spectrum("weak", [1, 0.1, 0.1, 0.1])]
    assert choose_ranks(modules, max_error=0.02) == {"strong": 4, "weak": 1}
    assert choose_ranks(modules, rank=2) == {"strong": 2, "weak": 2}
    wide = [spectrum("narrow", [3, 1.0], cost=10), spectrum("wide", [3, 1.1], cost=100)]
    error = math.sqrt(1.22 / 20.21)  # one of the two can be left out, and the wide one saves more
    assert choose_ranks(wide, max_error=error) == {"narrow": 2, "wide": 1}


def test_experts_of_a_module_keep_one_rank() -> None:
    experts = ModuleSpectrum("experts", 4, 20, ((4.0, 0.1, 0.1), (2.0, 1.0)))
    assert experts.energies == pytest.approx((20.0, 1.01, 0.01))
    assert experts.tails == pytest.approx((21.02, 1.02, 0.01, 0.0))
    assert experts.singular_value(1) == 1.0
    assert experts.singular_value(2) == 0.1
    assert experts.singular_value(3) == 0.0
    assert choose_ranks([experts], max_error=0.03) == {"experts": 2}


def test_zero_and_low_rank_deltas() -> None:
    modules = [spectrum("zero", []), spectrum("low", [1.0, 1.0])]
    assert choose_ranks(modules) == {"zero": 1, "low": 2}
    assert choose_ranks(modules, rank=16, max_error=0.0) == {"zero": 1, "low": 2}
    assert choose_ranks([spectrum("zero", [])], rank=1, max_error=0.0) == {"zero": 1}
    assert choose_ranks([], max_error=0.5) == {}


def test_cap_that_misses_the_error_says_what_can_be_reached() -> None:
    modules = [spectrum("a", [8, 4, 2, 1]), spectrum("b", [8, 4, 2, 1])]
    with pytest.raises(AccuracyError, match="With rank 1 at most") as caught:
        choose_ranks(modules, rank=1, max_error=0.2)
    found = re.search(r"--rank (\d+) or more, or for --max-error (\S+) or more", str(caught.value))
    assert found is not None
    enough, reachable = int(found[1]), float(found[2])
    assert enough == 3
    assert reachable == pytest.approx(math.sqrt(21 / 85), rel=0.01)
    choose_ranks(modules, rank=enough, max_error=0.2)
    assert choose_ranks(modules, rank=1, max_error=reachable) == {"a": 1, "b": 1}


@settings(deadline=None)
@given(error=st.floats(1e-9, 1, exclude_max=True))
def test_printed_error_is_one_that_works(error: float) -> None:
    printed = float(rank_choice.rounded_up(error))
    assert error <= printed < 1
    assert printed <= error * 1.011 or printed > 0.99


@pytest.mark.parametrize(
    ("rank", "max_error"), [(0, None), (-3, None), (None, 1.0), (None, -0.1), (None, math.nan), (None, math.inf)]
)
def test_options_out_of_range_are_refused(rank: int | None, max_error: float | None) -> None:
    for call in (check_ranks, lambda rank, error: choose_ranks([spectrum("a", [1])], rank=rank, max_error=error)):
        with pytest.raises(UsageError, match="--rank" if rank is not None else "--max-error"):
            call(rank, max_error)


def test_whole_model_is_chosen_within_the_steps() -> None:
    """22 layers of three shapes, spectra that fall off at different speeds; the search ends by itself."""
    modules = []
    for layer in range(22):
        for number, cost in enumerate((4096, 2304, 2304, 4096, 7680, 7680, 7680)):
            speed = 0.02 + 0.01 * ((7 * layer + 3 * number) % 11)
            modules.append(spectrum(f"{layer}.{number}", [math.exp(-speed * k) for k in range(64)], cost))
    for error in (0.01, 0.1, 0.5):
        ranks = choose_ranks(modules, max_error=error)
        assert 0.999 * error < relative_error(modules, ranks) <= error
        enough = enough_rank(modules, error)
        assert enough is not None
        assert elements(modules, ranks) < elements(modules, capped(modules, enough))
