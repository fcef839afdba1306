"""A plugin of pytest: what the shell has set for a registry, a Hub, a store or a terminal is not for the tests."""

from __future__ import annotations

import os
from typing import Final

import pytest

_BEGIN: Final = ("REGISTRY_", "AWS_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "PG")
_NAMES: Final = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Take it out before anything is imported that reads it, for this process and those that it starts."""
    for name in [name for name in os.environ if name.startswith(_BEGIN) or name in _NAMES]:
        del os.environ[name]
