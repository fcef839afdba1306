"""An extracted adapter as a link: what lies in its file is what was found, in the layout that PEFT has for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from registry.files.source import FileSource
from registry.tensors.extraction.changed import ChangedExperts
from registry.tensors.extraction.extract import LinkMaker, Scratch
from tests.tensors.checkpoint.adapter_headers import DOWN, EXPERTS, GATE_UP, TABLE


@pytest.mark.parametrize("ranks", [(2, 3, 1), (3, 1, 2), (1, 1, 1)])
def test_experts_of_other_ranks_are_filled_up_with_zeros(tmp_path: Path, ranks: tuple[int, ...]) -> None:
    """The parameter has one rank, which is the largest; the products are those that were found."""
    torch.manual_seed(0)
    made = {
        fused.name: {
            expert: (torch.randn(rank, fused.in_features), torch.randn(fused.out_features, rank))
            for expert, rank in enumerate(ranks)
        }
        for fused in (GATE_UP, DOWN)
    }
    with Scratch(tmp_path / "scratch") as scratch:
        maker = LinkMaker(scratch)
        for fused in (GATE_UP, DOWN):
            maker.add_experts(ChangedExperts(TABLE.targets[EXPERTS], fused, ()), made[fused.name])
        scratch.flush()
        with FileSource(tmp_path / "scratch") as source:
            link = maker.link(TABLE, source)
            for fused in (GATE_UP, DOWN):
                pair = link.checkpoint.pairs[f"{EXPERTS}.{fused.name}"]
                assert (pair.rank, pair.scaling) == (max(ranks), 1.0)
                for piece in fused.pieces:
                    a, b = pair.expert_matrices(piece)
                    found = b.read(source, 0, b.shape[0]) @ a.read(source, 0, a.shape[0])
                    wanted = made[fused.name][piece.expert][1] @ made[fused.name][piece.expert][0]
                    assert torch.allclose(found, wanted[piece.out[0] : piece.out[1]], atol=1e-6)
