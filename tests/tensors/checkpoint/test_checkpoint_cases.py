"""The shared cases, as far as names, shapes and configuration decide: refused by the expected code, or accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidAdapterError, RegistryError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.tensors.arithmetic.streamed import FiniteWatch
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.declaration import table_from_names
from registry.tensors.table.targets import TargetTable
from tests.root import ROOT

CASES = ROOT / "../shared/cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not there")

REFUSED = {
    "neg_alora": "not_mergeable",
    "neg_config_duplicate_key": "bad_config",
    "neg_dora_no_magnitude": "dora_incomplete",
    "neg_empty_tensor": "empty_tensor",
    "neg_extra_tensor": "unexpected_tensor",
    "neg_header_len_too_big": "bad_safetensors",
    "neg_inf": "non_finite",
    "neg_kasa": "base_shifting_init",
    "neg_layer_replication": "layer_replication",
    "neg_missing_B": "incomplete_pair",
    "neg_missing_r": "bad_config",
    "neg_missing_target": "incomplete_adapter",
    "neg_mts_shape": "shape_mismatch",
    "neg_nan": "non_finite",
    "neg_offset_hole": "bad_safetensors",
    "neg_overlapping_offsets": "bad_safetensors",
    "neg_pissa_unconverted": "base_shifting_init",
    "neg_r_string": "bad_config",
    "neg_rank_config_vs_tensor": "rank_mismatch",
    "neg_rank_pattern_vs_tensor": "rank_mismatch",
    "neg_regex_bomb": "bad_config",
    "neg_shape_out": "shape_mismatch",
    "neg_token_index_oob": "bad_token_index",
    "neg_truncated": "bad_safetensors",
    "neg_type_loha": "unsupported_peft_type",
    "neg_unknown_config_field": "unknown_config_field",
    "neg_unknown_module": "unknown_target",
    "neg_vocab_resized": "shape_mismatch",
}
ACCEPTED = [
    "llama_all_linear_d1", "llama_bf16_base_d3", "llama_chain_d4", "llama_embed_and_head_d2", "llama_rslora_mix_d3",
    "llama_sharded_d2", "quirk_alpha_pattern_overlap_d1",
]  # fmt: skip


def table_of(base: Path) -> TargetTable:
    found = {}
    for file in sorted(base.glob("*.safetensors")):
        with FileSource(file) as source:
            entries = read_header(source, what=file.name, error=InvalidAdapterError).entries
            found.update({name: (entry.dtype, entry.shape) for name, entry in entries.items()})
    return table_from_names(found)


def read_adapter(folder: Path, table: TargetTable) -> Checkpoint:
    config = parse_config((folder / "adapter_config.json").read_bytes())
    weights = folder / "adapter_model.safetensors"
    with FileSource(weights) as source:
        header = read_header(source, what=weights.name, error=InvalidAdapterError)
    found = read_checkpoint(config, header.entries, table)
    FiniteWatch(header.entries)(0, memoryview(weights.read_bytes()))
    return found


def case_of(name: str) -> tuple[Path, Any]:
    folder = CASES / name
    if not folder.is_dir():
        pytest.skip(f"the shared case {name} is not there")
    return folder, json.loads((folder / "case.json").read_text())


@pytest.mark.parametrize(("name", "code"), REFUSED.items())
def test_refused(name: str, code: str) -> None:
    folder, case = case_of(name)
    with pytest.raises(RegistryError) as caught:
        read_adapter(folder / case["expect"]["offending"], table_of(folder / "base"))
    assert caught.value.code == code
    assert code == case["expect"]["code"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    folder, case = case_of(name)
    table = table_of(folder / "base")
    found = [read_adapter(folder / path, table) for path in case["path"]]
    ranks: dict[str, int] = {}
    for checkpoint in found:
        for module, pair in checkpoint.pairs.items():
            tensor = str(pair.target.tensor)
            ranks[tensor] = ranks.get(tensor, 0) + pair.rank
            assert module == pair.module
    expected = case["factored"]["ranks"]
    assert ranks == {f"{module}.weight": rank for module, rank in expected.items()}
    told = [notice for checkpoint in found for notice in checkpoint.notices if "square weight" not in notice]
    assert len(told) == name.startswith("quirk")
    assert all("ambiguous_pattern" in notice for notice in told)
