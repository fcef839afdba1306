"""The same things made and merged by transformers and PEFT themselves: slow, and the judge of how we read them."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.kit.floats import Array
from tests.kit.nets import load_net

_AUTO = dict.fromkeys(("llama", "gpt2", "opt", "mixtral", "gpt_oss"), "AutoModelForCausalLM") | {"bert": "AutoModel"}


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder by the auto class of its type, or a net of `tests.kit.nets`; in ``dtype``, to evaluate."""
    import transformers

    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind is None:
        return load_net(folder, dtype)
    auto = getattr(transformers, _AUTO[kind])
    return auto.from_pretrained(folder, dtype=dtype).eval()


def save_model(folder: Path, base: Path, *, max_shard_size: str = "5GB", dtype: torch.dtype = torch.float32) -> Path:
    """Load ``base`` and save it with ``save_pretrained``: a folder as transformers itself writes it."""
    load_model(base, dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def train_adapter(folder: Path, model: Any, *, seed: int = 0, b_scale: float = 0.1, **config: Any) -> Any:
    """Put a LoRA made by PEFT on ``model``, fill its B with random values, save it; returns the merged model.

    ``config`` goes to ``LoraConfig``, or to that of another ``tuner``. The model is changed: it becomes what a child of
    this adapter is trained on.
    """
    wrapped = wrap(folder, model, seed=seed, b_scale=b_scale, **config)
    with between_themselves():
        return wrapped.merge_and_unload()


def wrap(folder: Path, model: Any, *, seed: int = 0, b_scale: float = 0.1, tuner: str = "Lora", **config: Any) -> Any:
    """The same without merging: the model as it is trained. All that PEFT would train gets other values."""
    import peft

    torch.manual_seed(seed)
    with between_themselves():
        wrapped = peft.get_peft_model(model, getattr(peft, f"{tuner}Config")(**config))
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name or "lora_embedding" in name:
                    parameter.copy_(torch.randn_like(parameter) * b_scale)
                elif "hada_" in name or "lokr_" in name:
                    parameter.copy_(torch.randn_like(parameter) * b_scale**0.5)
                elif parameter.requires_grad and "lora_A" not in name:  # magnitudes, biases, whole modules, token rows
                    parameter.mul_(1 + 0.2 * torch.randn_like(parameter)).add_(0.02 * torch.randn_like(parameter))
        wrapped.save_pretrained(folder)
    return wrapped.eval()


def peft_load(base: Path, adapters: Sequence[Path], dtype: torch.dtype = torch.float32) -> Any:
    """The model of the last adapter as PEFT loads it, not merged, on the merged ones before it."""
    import peft

    model = peft_merge(base, adapters[:-1], dtype)
    with between_themselves():
        return peft.PeftModel.from_pretrained(model, str(adapters[-1])).eval()


def peft_merge(base: Path, adapters: Sequence[Path], dtype: torch.dtype = torch.float32) -> Any:
    """PEFT's own step-by-step merge of a path."""
    import peft

    model = load_model(base, dtype)
    for adapter in adapters:
        with between_themselves():
            model = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    """The model's output for a fixed input."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]]))
    if isinstance(out, torch.Tensor):
        return out
    result: torch.Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return result


def with_weights(model: Any, values: Mapping[str, Array]) -> Any:
    """The model with other values of its parameters; names that it lacks are left out."""
    own = dict(model.state_dict(keep_vars=True))
    with torch.no_grad():
        for name, one in values.items():
            if name in own:
                own[name].copy_(torch.from_numpy(one))
    return model


@contextmanager
def between_themselves() -> Iterator[None]:
    """Leave out the warnings that are about PEFT's use of transformers or about saving whole embeddings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`.*", category=UserWarning)
        warnings.filterwarnings("ignore", message="Model (with|has) `tie_word_embeddings=True`.*", category=UserWarning)
        # PEFT looks for the modules of patterns among target_modules only, not among target_parameters
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match any targeted module.*")
        # a bias of lora_bias is no broken factor
        warnings.filterwarnings("ignore", message=r".*LoRA tensor\(s\) have invalid shape: .*lora_B\.bias:.*")
        # one flag for all modules of an adapter, which PEFT turns at each one
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to .*", category=UserWarning)
        warnings.filterwarnings("ignore", message="Could not identify embedding layer.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"\s*Model with `tie_word_embeddings=True`.*", category=UserWarning)
        yield


@contextmanager
def no_complaints() -> Iterator[None]:
    """Fail when PEFT or transformers log a warning inside (their `warnings` are errors in every test already)."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep = Keep(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("peft", "transformers")]
    for logger in loggers:
        logger.addHandler(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(keep)
    if records:
        raise AssertionError("; ".join(record.getMessage() for record in records))
