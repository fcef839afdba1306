"""What a planted bug is, and the tests that the list names more than once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """A bug: in ``file``, the one place that reads ``old`` reads ``new``; ``tests`` are to notice."""

    name: str
    file: str  # below registry/
    old: str
    new: str
    tests: str  # what pytest is given: a file, or one test of it


SLOTS: Final = "tests/tensors/path/test_slot_values.py"
PROGRAMS: Final = "tests/tensors/path/test_programs.py"
CHECKPOINT: Final = "tests/tensors/checkpoint/test_checkpoint.py"
CONFIG: Final = "tests/tensors/checkpoint/test_lora_config.py"
PATTERNS: Final = "tests/tensors/checkpoint/test_patterns.py"
KEYS: Final = "tests/tensors/checkpoint/test_key_grammar.py"
COVERAGE: Final = "tests/tensors/checkpoint/test_coverage.py"
TWINS: Final = "tests/tensors/checkpoint/test_twins.py"
PARTS: Final = "tests/tensors/checkpoint/test_variants_parts.py"
MODULES: Final = "tests/tensors/checkpoint/test_variants_modules.py"
TRUNCATE: Final = "tests/tensors/truncation/test_truncate.py"
COMPOSE: Final = "tests/tensors/composed/test_compose_values.py"
MODEL_CONFIG: Final = "tests/tensors/artifacts/test_model_config.py"
VARIANTS: Final = "tests/services/test_variants.py"
COPIES: Final = "tests/services/test_lineage_copies.py"


def link(variant: str) -> str:
    return f"{VARIANTS}::test_one_link[{variant}]"
