"""The code of docs/training.md runs as it stands, and does what the page says."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from registry.settings import SETTINGS
from registry.training.outbox import FOLDER, MOST_WAITING
from registry.training.sending import LAST_WAIT
from tests.root import ROOT
from tests.training.conftest import Desk
from tests.training.page import PAGE, run

AXOLOTL: Final = ROOT / "registry" / "training" / "axolotl.py"


def rows() -> list[dict[str, Any]]:
    import torch

    ids = torch.randint(3, 40, (8, 12), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": one, "labels": one} for one in ids]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
@pytest.mark.parametrize("heading", ["transformers' Trainer", "Any loop"])
def test_the_code_of_the_page_publishes(on_support: Desk, heading: str) -> None:
    run(heading, {"train_rows": rows(), "eval_rows": rows()[:4]})
    (one,) = on_support.team.log("llama/support/french").revisions
    assert (one.parent, one.parent_known_by, one.tags) == ("llama/support@1", "receipt", ("candidate",))
    assert one.metrics["train_loss"] > 0


def test_the_page_names_every_setting_and_figure() -> None:
    settings = [setting.name for field, setting in SETTINGS.items() if field.startswith("publish_")]
    assert [name for name in settings if name not in PAGE] == []
    keys = re.findall(r"^    (registry_\w+):", AXOLOTL.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(keys) == 6
    assert [key for key in keys if f"{key}:" not in PAGE and f"`{key}`" not in PAGE] == []
    assert f"At most {MOST_WAITING} adapters wait" in PAGE
    assert f"waits {LAST_WAIT / 60:.0f} minutes at most" in PAGE
    assert f"OUTPUT_DIR/{FOLDER}" in PAGE
