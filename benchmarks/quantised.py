"""Decoding quantised weights into bf16, beside torch's own conversion and the library's dequantiser.

Ours begins with stored bytes in memory and goes by ranges of 1 Mi elements, as merging does; it rounds each exact
product once. The peers get tensors of the same bytes and convert them as a whole. All on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch

from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.files.header import TensorEntry
from registry.files.source import BytesSource
from registry.quantised.reading import MAPS, Codes, Decoding, FlatBlocks, Grid, Nested, Scale
from registry.tensors.quantised.decoding import DecodedTensor

RANGE: Final = 1 << 20
TORCH: Final = "torch"
Arrays = Mapping[str, tuple[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Format:
    """A tensor of a format: how it is decoded, its bytes, and the same by others."""

    name: str
    decoding: Decoding
    stored: Arrays
    peers: Mapping[str, Callable[[], torch.Tensor]]

    @cached_property
    def tensor(self) -> DecodedTensor:
        """On files in memory."""
        files = {
            name: (BytesSource(values.tobytes(), name), TensorEntry(name, dtype, values.shape, 0, values.nbytes))
            for name, (dtype, values) in self.stored.items()
        }
        return DecodedTensor(self.decoding, files)

    def ours(self) -> torch.Tensor:
        """All ranges, into one tensor, as the peers make one."""
        size = int(np.prod(self.decoding.shape))
        out = torch.empty(size, dtype=torch.bfloat16)
        for first in range(0, size, RANGE):
            last = min(first + RANGE, size)
            out[first:last] = self.tensor.rounded(first, last, torch.bfloat16)
        return out


def _codes(random: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    codes = random.integers(0, 256, size, dtype=np.uint8)
    codes[codes & 0x7F == 0x7F] = 0x38  # no NaN in FP8
    return codes


def fp8(random: np.random.Generator, size: int) -> Format:
    """Blocks of 128 with scales of float32."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = _codes(random, size * size).reshape(size, size)
    scales = random.uniform(1e-4, 1e-3, (size // 128, size // 128)).astype(np.float32)
    weight, scale = torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scales)
    blocks = size // 128

    def by_torch() -> torch.Tensor:
        cut = weight.view(blocks, 128, blocks, 128).to(torch.float32)
        return (cut * scale[:, None, :, None]).to(torch.bfloat16).view(size, size)

    library = Fp8Dequantize(None)
    return Format(
        "FP8 blocks",
        Grid((size, size), Codes("codes", "float8"), Scale("scales", "float", (128, 128))),
        {"codes": ("F8_E4M3", codes), "scales": ("F32", scales)},
        {TORCH: by_torch, "transformers": lambda: library._dequantize_one(weight, scale, torch.bfloat16)},
    )


def mxfp4(random: np.random.Generator, size: int) -> Format:
    """Two experts of gpt-oss, which are transposed."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    runs = size // 32
    codes = _codes(random, size * size).reshape(2, size, runs, 16)
    scales = random.integers(110, 130, (2, size, runs), dtype=np.uint8)
    blocks, exponents = torch.from_numpy(codes), torch.from_numpy(scales)
    numbers = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])

    def by_torch() -> torch.Tensor:
        pairs = torch.stack((numbers[(blocks & 15).int()], numbers[(blocks >> 4).int()]), dim=-1)
        products = pairs.view(2, size, runs, 32) * torch.exp2(exponents.float() - 127)[..., None]
        return products.view(2, size, size).transpose(1, 2).to(torch.bfloat16).contiguous()

    return Format(
        "MXFP4 experts",
        Grid((2, size, size), Codes("codes", "e2m1", 4), Scale("scales", "exponent", (1, 32)), transposed=True),
        {"codes": ("U8", codes), "scales": ("U8", scales)},
        {TORCH: by_torch, "transformers": lambda: convert_moe_packed_tensors(blocks, exponents, dtype=torch.bfloat16)},
    )


def nf4(random: np.random.Generator, size: int) -> Format:
    """Blocks of 64, whose scales are quantised too; bitsandbytes decodes with a kernel for the CPU."""
    import bitsandbytes.functional as library

    blocks = size * size // 64
    codes, absmax = _codes(random, size * size // 2), _codes(random, blocks)
    above = random.uniform(0.01, 0.1, -(-blocks // 256)).astype(np.float32)
    dynamic = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
    packed, numbers = torch.from_numpy(codes).view(-1, 1), torch.tensor(MAPS["nf4"])
    scales, offset = torch.from_numpy(absmax), torch.tensor(0.09)
    large, map_of_scales = torch.from_numpy(above), torch.from_numpy(dynamic)
    within = library.QuantState(large, None, map_of_scales, 256, None, torch.float32)
    state = library.QuantState(scales, torch.Size((size, size)), numbers, 64, "nf4", torch.bfloat16, offset, within)

    def by_torch() -> torch.Tensor:
        pairs = torch.stack((numbers[(packed.view(-1) >> 4).int()], numbers[(packed.view(-1) & 15).int()]), dim=-1)
        scale = map_of_scales[scales.int()] * large.repeat_interleave(256)[:blocks] + offset
        return (pairs.view(blocks, 64) * scale[:, None]).to(torch.bfloat16).view(size, size)

    return Format(
        "nested NF4",
        FlatBlocks((size, size), "codes", "nf4", "absmax", 64, Nested("above", "map", 0.09, 256)),
        {"codes": ("U8", codes), "absmax": ("U8", absmax), "above": ("F32", above), "map": ("F32", dynamic)},
        {TORCH: by_torch, "bitsandbytes": lambda: library.dequantize_4bit(packed, state)},
    )


def _timed(work: Callable[[], torch.Tensor]) -> Sample:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def rows(run: Conditions) -> Iterator[Row]:
    """Nanoseconds an element of each format, beside each of its peers."""
    size, count = (256, 1) if run.quick else (4096, run.runs(7))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for make in (fp8, mxfp4, nf4):
            form = make(np.random.default_rng(29), size)
            elements = int(np.prod(form.decoding.shape))
            sides = {"ours": form.ours, **form.peers}
            for side in sides.values():
                side()  # code and tables are loaded
            samples: dict[str, list[Sample]] = {name: [] for name in sides}
            for _ in range(count):
                for name, side in sides.items():
                    samples[name].append(_timed(side))
            figures = {name: Figure.of(found, scale=1e9 / elements) for name, found in samples.items()}
            for name in form.peers:
                goal = Goal("at most", 1.0, of="ratio")
                yield Row(f"{form.name} to bf16", figures["ours"], "ns an element", Peer(name, figures[name]), goal)
    finally:
        torch.set_num_threads(threads)
