"""Loaded by Python at its start in a service that is to have delays (`tests.kit.delays`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("delays_of_tests", Path(__file__).parents[1] / "delays.py")
if _spec is not None and _spec.loader is not None:
    _delays = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_delays)
    _delays.delay_everything()
