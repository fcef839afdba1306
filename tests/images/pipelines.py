"""Tiny random pipelines of diffusers, saved as `save_pretrained` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from tests.images.denoisers import made


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *(chr(at) for at in range(97, 123)),
        *(f"{chr(at)}</w>" for at in range(97, 123)),
    ]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def clip(*, projected: bool, width: int = 16) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=64, hidden_size=width, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    )  # fmt: skip


def _sdxl(place: Path) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=clip(projected=False, width=8),
        text_encoder_2=clip(projected=True, width=8),
        tokenizer=_tokenizer(place / "t1"),
        tokenizer_2=_tokenizer(place / "t2"),
        unet=made("sdxl"),
        scheduler=EulerDiscreteScheduler(),
    )


def _sd(place: Path) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=clip(projected=False),
        tokenizer=_tokenizer(place / "t1"),
        unet=made("sd"),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


PIPELINES: Final[Mapping[str, Callable[[Path], Any]]] = {"SD": _sd, "SDXL": _sdxl}


def save(family: str, place: Path) -> Path:
    """Save a pipeline in bf16, with weights that are the same every time; its folder."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made_pipeline = PIPELINES[family](place / "tokenizers").to(torch.bfloat16)
    made_pipeline.save_pretrained(place / family)
    return place / family
