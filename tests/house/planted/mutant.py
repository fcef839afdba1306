"""What a planted bug is, and the tests that the list names more than once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """A bug: in the definition ``symbol``, the one place that reads ``old`` reads ``new``; ``tests`` are to notice.

    No path is part of it, so that a module or a test may move. `tests.house.symbols` says how both are found.
    """

    name: str
    symbol: str  # below registry/: a qualified name, with a folder or module before it where several have it
    old: str
    new: str
    tests: str  # below tests/: a file's name, or a test function's, with the case that is meant in [brackets]


SLOTS: Final = "test_slot_values.py"
PROGRAMS: Final = "test_programs.py"
CHECKPOINT: Final = "test_checkpoint.py"
CONFIG: Final = "test_lora_config.py"
PATTERNS: Final = "test_patterns.py"
KEYS: Final = "test_key_grammar.py"
COVERAGE: Final = "test_coverage.py"
TWINS: Final = "test_doubles.py"
PARTS: Final = "test_variants_parts.py"
MODULES: Final = "test_variants_modules.py"
TRUNCATE: Final = "test_truncate.py"
MODEL_CONFIG: Final = "test_built_kinds.py"


def link(variant: str) -> str:
    return f"test_one_link[{variant}]"
