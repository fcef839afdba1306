"""Parents, siblings over them, and the same adapters trained by PEFT alone on the fetched merged files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from registry.pool import AdapterPool
from registry.pool.parallel_training import Siblings
from tests.kit import bert_base, gpt2_base, llama_base, write_adapter
from tests.kit.peers import between_themselves, load_model
from tests.kit.shelf import Shelf

_NUMBERS = itertools.count()
_ENDS: Final = {
    "a": ("lora_A.weight", "lora_embedding_A"),
    "b": ("lora_B.weight", "lora_embedding_B"),
    "magnitude": ("lora_magnitude_vector.weight",),
}

_MAKERS: Final[Mapping[str, Any]] = {"llama": llama_base, "gpt2": gpt2_base, "bert": bert_base}
_PARENTS: Final = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "bert": ["query"]}

Batch = dict[str, torch.Tensor]


def classifier(folder: Path) -> Any:
    """A sequence classifier over a base that has no head: the head is drawn from a seed."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    options = {"num_labels": 3, "pad_token_id": 0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()


@dataclass
class Nursery:
    """A parent adapter over a base of some kind, published, and its merged files."""

    shelf: Shelf
    kind: str
    load: Callable[[Path], Any] = load_model

    def __post_init__(self) -> None:
        self.base = self.shelf.base(f"{self.kind}-nursery", _MAKERS[self.kind], seed=3)
        folder = write_adapter(self.shelf.folder(), self.base, _PARENTS[self.kind], r=2, seed=2)
        self.parent = self.shelf.path(f"{self.kind}-nursery", [folder])
        self.merged = self.shelf.folder()
        self.shelf.registry.fetch(self.parent, self.merged, kind="merged")

    def path(self, name: str) -> str:
        """A new path below the parent."""
        return f"{self.parent.partition('@')[0]}/{name}-{next(_NUMBERS)}"

    def pool(self) -> AdapterPool:
        """A pool over a fresh model of the base."""
        return AdapterPool(self.load(self.base.folder), self.shelf.registry)

    def alone(self, config: Any, values: Mapping[str, torch.Tensor]) -> Any:
        """PEFT's model of one adapter on the merged files, with these values, by the names that PEFT saves."""
        import peft

        with between_themselves():
            model = peft.get_peft_model(self.load(self.merged), config)
            peft.set_peft_model_state_dict(model, dict(values))
        return model


def values_of(siblings: Siblings, path: str) -> dict[str, torch.Tensor]:
    """A copy of what a sibling would be saved as."""
    return {name: one.clone() for name, one in siblings._siblings[path].tensors().items()}


def peft_names(model: Any) -> dict[str, torch.nn.Parameter]:
    """What PEFT trains, by the names that siblings have for it."""
    found = {}
    for name, one in model.named_parameters():
        if one.requires_grad:
            plain = name.replace("base_model.model.", "").replace(".default", "").replace(".modules_to_save", "")
            short = [(part, plain.removesuffix(f".{end}")) for part, ends in _ENDS.items() for end in ends]
            part = next(((part, at) for part, at in short if at != plain), None)
            found[plain if part is None else f"{part[1]}.{part[0]}"] = one
    return found


def mine(batch: Batch, rows: Sequence[str], path: str, *, cut: bool = False) -> Batch:
    """The rows of one sibling, with ``cut`` as long as its longest row."""
    index = [number for number, name in enumerate(rows) if name == path]
    own = {name: one[index] for name, one in batch.items()}
    if cut and "attention_mask" in own:
        length = int(own["attention_mask"].sum(1).max())
        own = {name: one[:, :length] if one.dim() > 1 else one for name, one in own.items()}
    return own


def texts(rows: int, length: int = 9, seed: int = 0, labels: int | None = None) -> Batch:
    """Token ids of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 30, (rows, length), generator=generator)
    lengths = torch.tensor([length - (2 * row) % (length - 3) for row in range(rows)])
    mask = (torch.arange(length) < lengths[:, None]).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if labels is None:
        return {**batch, "labels": ids.masked_fill(mask == 0, -100)}
    return {**batch, "labels": torch.randint(0, labels, (rows,), generator=generator)}


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, by norms."""
    return float(((one - other).norm() / other.norm().clamp_min(1e-12)).detach())
