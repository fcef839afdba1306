"""Compiled models of a pool."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_SLOTS: Final = "test_slots_hold_what_was_chosen_last_however_they_were_used_before"
_SWITCHES: Final = "test_switches_compile_nothing_and_equal_the_model_as_it_is"

COMPILED: Final = (
    Mutant("compiled-left-over", "SumSlots.write", "self.b[slot, rank:used] = 0", "pass", _SLOTS),
    Mutant(
        "compiled-scale-left-over", "SumSlots.write", "if not (plain and self._plain[slot]):", "if not plain:", _SLOTS
    ),
    Mutant("compiled-token-kept", "embedding_parts", "keep[rows] = 0", "pass", _SWITCHES),
    Mutant("compiled-feature-kept", "_set_features", "given[at] = 0", "pass", _SWITCHES),
    Mutant(
        "compiled-slot-taken",
        "SlotTable._free",
        " and not self._users[slot]",
        "",
        "test_a_slot_that_a_call_needs_is_waited_for",
    ),
    Mutant(
        "compiled-grown-empty",
        "SumSlots.grow",
        "b[slot, :used] = self.b[slot, :used]",
        "pass",
        "test_what_a_path_needs_beyond_its_slots_is_said_and_compiles_once",
    ),
    Mutant(
        "compiled-lost-rows",
        "CompiledForward._check_found",
        "for path in paths if lost else ():",
        "for path in ():",
        "test_rows_that_a_module_does_not_have_are_told_where_a_path_needs_them",
    ),
)
