"""The examples of the API are what a demo registry answers."""

from __future__ import annotations

import json

import pytest

from tests.api.recorded import FILE, recorded, shape


@pytest.mark.long
def test_the_examples_have_the_fields_that_a_demo_registry_is_asked_for_and_answers() -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    now = recorded()
    assert sorted(now) == sorted(kept), "run python -m tests.api.recorded"
    assert [name for name in kept if shape(now[name]).keys() != shape(kept[name]).keys()] == []
