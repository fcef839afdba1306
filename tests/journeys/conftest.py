"""Merged models for the tests of faults and crowds, made once."""

from __future__ import annotations

import pytest

from tests.journeys.fault_hub import Models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models.made(tmp_path_factory.mktemp("models"), 8)
