"""The code of docs/training.md for TRL runs as it stands, and does what the page says."""

from __future__ import annotations

import importlib

import pytest

from tests.training.conftest import Desk
from tests.training.page import run

pytest.importorskip("trl", reason="TRL is not installed: `make test-recipes` has it in an environment of its own")


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' about each other
def test_the_code_for_trl_publishes(on_support: Desk) -> None:
    rows = importlib.import_module("datasets").Dataset.from_list([{"text": "where is my order"}] * 8)
    run("TRL", {"train_rows": rows}, ("num_train_epochs=3", "num_train_epochs=3, bf16=False"))  # without a GPU
    revisions = on_support.team.log("llama/support/french").revisions
    assert {one.parent for one in revisions} == {"llama/support@1"}
    assert {one.annotations["trainer"] for one in revisions} == {"TRL"}
    assert revisions[0].annotations["epoch"] == "3"
