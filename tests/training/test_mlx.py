"""What MLX trains and merges comes in as docs/training.md says, with the weights that MLX itself merges."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from registry.errors import InvalidAdapterError
from tests.training.conftest import Desk
from tests.training.page import run

pytest.importorskip("mlx_lm", reason="mlx-lm is not installed: `make test-long ONLY=recipes` has it")

SCALE = 20.0
WEIGHTS = "model.safetensors"


def mlx(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mlx_lm", *words], check=True, capture_output=True)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_mlx_trains_has_the_weights_that_it_merges(on_support: Desk) -> None:
    Path("data").mkdir()
    for name in ("train", "valid"):
        Path(f"data/{name}.jsonl").write_text(json.dumps({"text": "where is my order please send it"}) + "\n")
    Path("how.yaml").write_text(json.dumps({"lora_parameters": {"rank": 2, "dropout": 0.0, "scale": SCALE}}))
    one = ["--model", "./support", "--adapter-path", "adapters"]
    few = ["--iters", "4", "--batch-size", "1", "--num-layers", "1", "--learning-rate", "1e-2", "-c", "how.yaml"]
    mlx("lora", "--train", "--data", "data", *one, *few)
    mlx("fuse", "--save-path", "fused", *one)

    with pytest.raises(InvalidAdapterError, match=r"written by mlx-lm.*registry publish --full DIR PATH"):
        on_support.team.publish("adapters", "llama/support/french")
    run("MLX", {})
    found = on_support.team.publish("peft", "llama/support/french").revision
    assert (found.parent, found.parent_known_by) == ("llama/support@1", "receipt")
    on_support.team.publish("fused", "llama/support/fused", full=True, rank=2, parent="llama/support@1")

    for path in ("llama/support/french", "llama/support/fused"):
        merged = load_file(Path(on_support.team.fetch(path, kind="merged").folder) / WEIGHTS)
        _check(merged, load_file(Path("fused") / WEIGHTS))


def _check(merged: dict[str, np.ndarray], fused: dict[str, np.ndarray]) -> None:
    """Against MLX's own merge, and against one in float64."""
    base = load_file(Path("support") / WEIGHTS)
    trained = load_file(Path("adapters") / "adapters.safetensors")
    assert merged.keys() == fused.keys() == base.keys()
    changed = set()
    for name, values in merged.items():
        right = base[name].astype(np.float64)
        module = name.removesuffix(".weight")
        if f"{module}.lora_a" in trained:
            a, b = (trained[f"{module}.lora_{one}"].astype(np.float64) for one in "ab")
            right = right + SCALE * (a @ b).T
            changed.add(name)
            assert not np.array_equal(values, base[name])
        np.testing.assert_allclose(values, right, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(values, fused[name], rtol=1e-5, atol=1e-6)
    assert len(changed) == 7
