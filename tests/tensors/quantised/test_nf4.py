"""The 4 bits that an adapter is trained on: from the definition, against bitsandbytes where it is installed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from registry.files.header import TensorEntry
from registry.files.source import BytesSource, read_range
from registry.schemas.artifacts import FourBits
from registry.tensors.quantised.trained import (
    FourBitWeight,
    Nested,
    Recent,
    TrainedTensor,
    codes_of,
    dynamic_map,
    nested,
    scaled,
    unnested,
    values_of,
)

SHAPES = [(64, 64), (33, 100), (5, 7)]


def weight(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    drawn[0, :2] = 0
    return drawn.to(torch.bfloat16)


def made(weight: torch.Tensor, how: FourBits) -> FourBitWeight:
    flat = weight.reshape(-1)
    return FourBitWeight(how, flat.numel(), lambda first, last: flat[first:last].float())


@pytest.mark.parametrize(("kind", "shape"), [("nf4", (33, 100)), ("fp4", (64, 64))])
def test_values_are_the_nearest_of_sixteen_times_the_scale(kind: str, shape: tuple[int, int]) -> None:
    stored = weight(shape)
    how = FourBits.parse(f"{kind}:32")
    flat = stored.reshape(-1).double()
    found = made(stored, how).values(0, flat.numel()).double()
    for start in range(0, flat.numel(), 32):
        block = flat[start : start + 32]
        near = (block[:, None] - values_of(how.type).double() * block.abs().max()).abs().amin(dim=1)
        torch.testing.assert_close((found[start : start + 32] - block).abs(), near, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("said", ["nf4:64:double", "fp4:128", "nf4:32"])
def test_any_range_has_the_values_of_the_whole(said: str) -> None:
    stored = weight((33, 100))
    how = FourBits.parse(said)
    whole = made(stored, how).values(0, 3300)
    for first, last in [(0, 1), (63, 65), (64, 128), (1000, 2117), (3299, 3300), (3200, 3300), (17, 17)]:
        assert torch.equal(made(stored, how).values(first, last), whole[first:last])


def test_the_error_is_that_of_all_values() -> None:
    stored = weight((33, 100))
    for said in ("nf4", "nf4:64:double"):
        quantised = made(stored, FourBits.parse(said))
        wrong = (stored.double() - quantised.values(0, 3300).view(33, 100).double()).square().sum()
        assert quantised.error() == pytest.approx(wrong.item(), rel=1e-12)
        assert 0.08 < (quantised.error() / stored.double().square().sum().item()) ** 0.5 < 0.11


def test_a_weight_is_read_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, how = weight((300, 128)), FourBits.parse("nf4:64:double")
    whole, error = made(stored, how).values(0, 38400), made(stored, how).error()
    monkeypatch.setattr("registry.tensors.quantised.trained.STEP", 4096)
    assert torch.equal(made(stored, how).values(0, 38400), whole)
    assert made(stored, how).error() == pytest.approx(error, rel=1e-12)


def test_magnitudes_in_eight_bits_are_near() -> None:
    magnitudes = torch.rand(1000, generator=torch.Generator().manual_seed(1)) + 0.5
    found = unnested(nested(magnitudes))
    assert dynamic_map().numel() == 256
    assert torch.equal(dynamic_map(), dynamic_map().sort().values)
    assert (found - magnitudes).abs().max() < 0.5 * 0.014  # half a step of the 64 between 0.1 and 1, of half the range


def test_infinity_stays_no_number() -> None:
    stored = weight((4, 64))
    stored[1, 3] = float("inf")
    for said in ("nf4", "nf4:64:double"):
        found = made(stored, FourBits.parse(said)).values(0, 256).view(4, 64)
        assert not found[1].isfinite().any() or not found[1, 3].isfinite()


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("bitsandbytes").functional


@pytest.mark.parametrize(("kind", "block", "shape"), [*itertools.product(["nf4", "fp4"], [32, 256], SHAPES[1:3])])
def test_codes_are_those_of_the_librarys_own_code(
    library: object, kind: str, block: int, shape: tuple[int, int]
) -> None:
    from bitsandbytes.backends.default import ops  # noqa: F401 - registers the pure torch operations

    stored = weight(shape)
    codes, magnitudes = torch.ops.bitsandbytes.quantize_4bit.default(stored, block, kind, torch.uint8)
    codes = torch.stack([codes.view(-1) >> 4, codes.view(-1) & 15], dim=1).view(-1)[: stored.numel()]
    found = scaled(stored.reshape(-1).float(), block)
    assert torch.equal(found.magnitudes, magnitudes)
    table = values_of("nf4" if kind == "nf4" else "fp4")
    mine = codes_of(found.elements, "nf4" if kind == "nf4" else "fp4")
    assert torch.equal(table[mine], table[codes.long()])


def test_maps_are_the_librarys(library: Any) -> None:
    assert torch.equal(dynamic_map(), library.create_dynamic_map())
    for kind in ("nf4", "fp4"):
        assert torch.equal(values_of(kind), library.get_4bit_type(kind, device="cpu"))


def test_double_quantisation_is_the_librarys_to_three_digits(library: Any) -> None:
    stored = weight((512, 512))
    codes, state = library.quantize_4bit(stored, blocksize=64, compress_statistics=True, quant_type="nf4")
    theirs = (stored.double() - library.dequantize_4bit(codes, state).double()).norm().item()
    mine = made(stored, FourBits.parse("nf4:64:double")).error() ** 0.5
    assert mine == pytest.approx(theirs, rel=5e-4)
    magnitudes = scaled(stored.reshape(-1).float(), 64).magnitudes
    found: Nested = nested(magnitudes, state.offset)
    assert (found.codes - state.absmax.long()).abs().max() <= 1
    assert torch.equal(found.magnitudes, state.state2.absmax)


def test_bytes_from_anywhere_are_those_of_the_whole() -> None:
    stored = weight((5, 70))
    data = stored.view(torch.uint8).numpy().tobytes()
    entry = TensorEntry("a", "BF16", (5, 70), 0, len(data))
    source = BytesSource(data, "a")
    tensor = TrainedTensor(source, entry, FourBits.parse("nf4:64:double"), Recent())
    whole = read_range(tensor, 0, tensor.size)
    assert (
        whole
        == made(stored, FourBits.parse("nf4:64:double"))
        .values(0, 350)
        .to(torch.bfloat16)
        .view(torch.uint8)
        .numpy()
        .tobytes()
    )
    for first, last in [(0, 1), (1, 2), (1, 700), (129, 260), (257, 258), (699, 700)]:
        assert read_range(tensor, first, last) == whole[first:last]
