"""What a team leaves on its disk, 79 entries written by the tools themselves, and where each adapter truly belongs.

By PEFT, transformers, its Trainer and safetensors; by hand, as their code writes it: axolotl, kohya, MLX, diffusers,
llama.cpp and bitsandbytes. ``python -m tests.services.importing.team_heap`` plans and applies it, and prints all that
comes out otherwise.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from registry.operations.import_plan import ImportPlan
from registry.reference import Reference
from registry.schemas.publishing import ImportEntry
from registry.services.local import LocalRegistry
from tests.kit import Base, RawTensor, llama_base, read_tensors, write_tensors
from tests.kit.heap import LINEAR, WEIGHTS, _ia3, _mlx, _pickled, _quiet, _resized, _trainer, _two
from tests.kit.peers import load_model, peft_merge, save_model, wrap

BASE: Final = "models/base"
_PLAIN: Final[dict[str, Any]] = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": list(LINEAR)}
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "support": {},
    "legal": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "head": {"modules_to_save": ["lm_head"]},
    "embed": {"target_modules": ["q_proj", "embed_tokens"]},
    "rows": {"trainable_token_indices": {"embed_tokens": [3, 17]}},
    "all-linear": {"target_modules": "all-linear"},
    "one-layer": {"layers_to_transform": [1]},
}


@dataclass
class TeamHeap:
    """The heap's folder, and the truth."""

    root: Path
    truth: dict[str, str] = field(
        default_factory=dict
    )  # by the place of an adapter: its parent's, a model that no path makes itself
    made_of: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the adapters of the path to each, root first
    two_fit: set[str] = field(default_factory=set)  # of which nothing tells more than one parent
    others: dict[str, str] = field(default_factory=dict)  # actions of what is no adapter, by place
    seeds: int = 0

    def write(self) -> TeamHeap:
        """Write everything; what is older is written first."""
        with _quiet():
            self._models()
            self._runs()
            self._chains()
            self._siblings()
            self._checkpoints()
            self._axolotl()
            self._lost()
            self._copies()
            self._foreign()
        return self

    def adapter(self, place: str, trained_on: str, parent: str, **config: Any) -> str:
        """What PEFT trains on a folder of the heap; ``parent`` is the base model or an adapter."""
        self.seeds += 1
        scale = config.pop("scale", 0.1)
        folder = self.root / place
        wrap(folder, load_model(self.root / trained_on), seed=self.seeds, b_scale=scale, **(_PLAIN | config))
        self.truth[place] = parent
        self.made_of[place] = (*self.made_of.get(parent, ()), place)
        return place

    def merged(self, place: str, *adapters: str, base: str = BASE, dtype: torch.dtype = torch.bfloat16) -> str:
        """What PEFT merges, link by link."""
        peft_merge(self.root / base, [self.root / one for one in adapters], dtype).save_pretrained(self.root / place)
        self.others.setdefault(place, "skip")
        return place

    def says(self, place: str, name: str) -> None:
        """Let an adapter's configuration name another model."""
        file = self.root / place / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))

    def _models(self) -> None:
        sizes: dict[str, Any] = {"hidden": 32, "mlp": 48, "vocab": 64, "dtype": "BF16"}
        llama_base(self.root / BASE, seed=1, **sizes)
        llama_base(self.root / "models/other", seed=2, **sizes)
        save_model(self.root / "models/sharded", self.root / BASE, max_shard_size="20KB", dtype=torch.bfloat16)
        self.merged("models/in fp32", dtype=torch.float32)
        model = load_model(self.root / BASE, torch.bfloat16)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
                parameter.add_((0.03 * parameter.float().std() * noise).to(torch.bfloat16))
        model.save_pretrained(self.root / "models/tuned")
        (self.root / "models/tuned/trainer_state.json").write_text('{"global_step": 5, "log_history": []}')
        self.others |= {BASE: "add", "models/other": "add", "models/sharded": "skip", "models/tuned": "full"}

    def _runs(self) -> None:
        for name, config in _KINDS.items():
            self.adapter(f"runs/{name}", BASE, BASE, **config)
        self.adapter("runs/on-other", "models/other", "models/other")
        self.adapter("runs/on-fp32", "models/in fp32", BASE)
        self.adapter("runs/on-sharded", "models/sharded", BASE)
        self.adapter("runs/on-tuned", "models/tuned", "models/tuned")
        self.adapter("runs/untrained", BASE, BASE, scale=0.0)
        self.adapter("runs/named-hub", BASE, BASE)
        self.says("runs/named-hub", "unsloth/tiny-llama-bnb-4bit")
        self.two_fit.add("runs/named-hub")  # its tensors fit both base models
        self._two_of_one()
        (self.root / "runs/pickled").mkdir()
        _pickled(self.root / "runs/pickled", self.root / "runs/support")
        self.truth["runs/pickled"] = BASE

    def _two_of_one(self) -> None:
        base = Base(self.root / BASE, {}, None)
        _two(self.root / "runs/two", base)
        self.truth |= {"runs/two/first": BASE, "runs/two/second": BASE}
        _ia3(self.root / "foreign/ia3", base)
        _resized(self.root / "foreign/resized", base)
        _trainer(self.root / "runs/trainer", base)
        self.truth["runs/trainer"] = BASE
        self.others |= {"foreign/ia3": "refused", "foreign/resized": "refused"}

    def _chains(self) -> None:
        """Four links, each on the merge of those before it, in three dtypes; and on an adapter's own folder."""
        above = "runs/support"
        for name, dtype in (("french", torch.bfloat16), ("paris", torch.float32), ("cafe", torch.float16)):
            merged = self.merged(f"out/before-{name}", *self.made_of[above], dtype=dtype)
            above = self.adapter(f"runs/{name}", merged, above)
        for kind in ("legal", "dora", "head", "rows"):
            merged = self.merged(f"out/{kind}/merged", *self.made_of[f"runs/{kind}"])
            self.adapter(f"runs/on-{kind}", merged, f"runs/{kind}")
        self.adapter("runs/on-folder", BASE, "runs/legal")
        self.says("runs/on-folder", str(self.root / "runs/legal"))
        self.adapter("runs/deeper", self.merged("out/on-dora", *self.made_of["runs/on-dora"]), "runs/on-dora")
        self.adapter("runs/over-other", self.merged("out/over", "runs/on-other", base="models/other"), "runs/on-other")

    def _siblings(self) -> None:
        """Steps of one training, a few thousandths from each other; the second one was merged."""
        for number in range(3):
            place, first = f"runs/sibling-{number}", self.root / "runs/support"
            shutil.copytree(first, self.root / place)
            random = np.random.default_rng(number)
            tensors = read_tensors(first / WEIGHTS)
            near = {
                name: RawTensor.of(one.values * (1 + 0.02 * random.standard_normal(one.values.shape)), "F32")
                for name, one in tensors.items()
            }
            write_tensors(self.root / place / WEIGHTS, near)
            self.truth[place], self.made_of[place] = BASE, (place,)
        self.adapter("runs/on-sibling", self.merged("out/sibling", "runs/sibling-1"), "runs/sibling-1")

    def _checkpoints(self) -> None:
        """A run that was stopped: both of its checkpoints were merged, and trained on."""
        for step in (10, 20):
            place = self.adapter(f"runs/stopped/checkpoint-{step}", BASE, BASE)
            state: dict[str, Any] = {"global_step": step, "log_history": [], "best_model_checkpoint": None}
            (self.root / place / "trainer_state.json").write_text(json.dumps(state))
            self.adapter(f"runs/on-{step}", self.merged(f"out/stopped-{step}", place), place)

    def _axolotl(self) -> None:
        """The adapter names a repository that is not here; beside it lies what it was merged into."""
        place = self.adapter("axolotl/out", BASE, BASE)
        self.says(place, "acme/tiny")
        self.adapter("runs/on-axolotl", self.merged("axolotl/out/merged", place), place)

    def _lost(self) -> None:
        """Merges that no path makes: of an adapter that was deleted, on another base model, of two siblings."""
        gone = self.adapter("runs/gone", BASE, BASE)
        self.adapter("runs/on-lost", self.merged("out/lost", gone), "out/lost")
        shutil.rmtree(self.root / gone)
        del self.truth[gone]
        self.adapter(
            "runs/on-stranger", self.merged("out/stranger", "runs/support", base="models/other"), "out/stranger"
        )
        self.adapter("runs/on-sum", self.merged("out/sum", "runs/support", "runs/legal"), "out/sum")
        self.two_fit.add("runs/on-sum")  # so far from all that it may be a base model of its own
        self.others |= {"out/lost": "full", "out/stranger": "full", "out/sum": "undecided"}

    def _copies(self) -> None:
        shutil.copytree(self.root / "runs/legal", self.root / "backup/Legal Copy")
        shutil.copytree(self.root / "out/before-paris", self.root / "backup/merged")
        self.adapter("runs/on-copy", "backup/merged", "runs/french")
        self.truth["backup/Legal Copy"] = BASE
        self.others["backup/merged"] = "skip"
        for name, kind in (("old", "zip"), ("older", "gztar")):
            place = self.adapter(f"packed/{name}/one", BASE, BASE)
            made = shutil.make_archive(str(self.root / f"archives/{name}"), kind, self.root / f"packed/{name}")
            self.truth[f"archives/{Path(made).name}/one"] = self.truth.pop(place)
        shutil.rmtree(self.root / "packed")

    def _foreign(self) -> None:
        place = self.root / "foreign"
        _mlx(place / "mlx")
        unet = "lora_unet_mid_block_attentions_0_proj_in"
        kohya = {f"{unet}.lora_down.weight": (4, 8), f"{unet}.lora_up.weight": (8, 4), f"{unet}.alpha": ()}
        (place / "kohya").mkdir()
        _ones(place / "kohya/MyChar_v2.safetensors", kohya)
        (place / "diffusers").mkdir()
        lead = "unet.mid_block.attentions.0.proj_in.lora"
        _ones(
            place / "diffusers/pytorch_lora_weights.safetensors",
            {f"{lead}.down.weight": (4, 8), f"{lead}.up.weight": (8, 4)},
        )
        (place / "gguf").mkdir()
        (place / "gguf/tiny-q4_k_m.gguf").write_bytes(b"GGUF" + bytes(60))
        (place / "no-config").mkdir()
        shutil.copy(self.root / "models/other/model.safetensors", place / "no-config")
        quantised = shutil.copytree(self.root / BASE, place / "bnb-4bit")
        config = json.loads((quantised / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (quantised / "config.json").write_text(json.dumps(config))
        self.adapter("foreign/pissa", BASE, BASE, init_lora_weights="pissa")
        del self.truth["foreign/pissa"]
        names = ("mlx", "kohya", "diffusers", "gguf", "no-config", "bnb-4bit", "pissa")
        self.others |= {f"foreign/{name}": "refused" for name in names}

    def wrong(self, entries: tuple[ImportEntry, ...]) -> list[str]:
        """What a plan says that is not so."""
        found = {one.folder.removeprefix("./"): one for one in entries}
        originals = {place: place for place in found} | {
            place: (one.reason or "").rpartition(" ./")[2] for place, one in found.items() if one.action == "skip"
        }
        said = []
        for place, parent in self.truth.items():
            one = found.get(place)
            if one is None:
                said.append(f"{place}: no entry")
            elif one.action == "publish" and (one.parent or "").removeprefix("./") != originals.get(parent, parent):
                said.append(f"{place}: on {one.parent}, and it was {parent}")
            elif one.action not in ("publish", "skip") and place not in self.two_fit:
                said.append(f"{place}: {one.action}, and it was {parent}: {one.reason}")
        for place, action in self.others.items():
            if (
                place in found
                and action in ("skip", "undecided", "refused")
                and found[place].action in ("add", "publish")
            ):
                said.append(f"{place}: {found[place].action}, and {action} is right")
        return said

    def misplaced(self, plan: ImportPlan) -> list[str]:
        """What is not as planned once the plan was applied: what was not published, or not below its parent."""
        planned, said = {one.folder: one for one in plan.entries}, []
        for one in plan.apply():
            above = planned.get(planned[one.folder].parent or "")
            if one.state != "published":
                said.append(f"{one.folder}: {one.state}, {one.message}")
            elif above is not None and one.published is not None:
                parent = Reference.parse(one.published.revision.parent).path
                if str(parent).rpartition("/")[2] != above.name:
                    said.append(f"{one.folder}: below {parent}, and {above.name} is its parent")
        return said


def _ones(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    write_tensors(file, {name: RawTensor.of(np.ones(shape), "F32") for name, shape in shapes.items()})


def main() -> None:
    """Write, plan, apply, and say what is not so; exits with 1 if there is anything."""
    with tempfile.TemporaryDirectory() as folder:
        heap = TeamHeap(Path(folder) / "heap").write()
        with closing(LocalRegistry.open(Path(folder) / "registry", create=True)) as registry:
            plan = registry.plan_import(heap.root)
            print(len(plan.entries), "entries", dict(Counter(one.action for one in plan.entries)))
            undecided = {one.folder.removeprefix("./") for one in plan.entries if one.action == "undecided"}
            said = [f"{place}: undecided" for place in sorted(undecided - {*heap.two_fit, "out/sum"})]
            said += [*heap.wrong(plan.entries), *heap.misplaced(plan)]
    print(*said, sep="\n")
    sys.exit(bool(said))


if __name__ == "__main__":
    main()
