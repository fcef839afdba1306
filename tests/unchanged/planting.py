"""The fixed set of paths: three base models and the adapters below them, published through the Python API alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import registry
from tests.kit.floats import Array
from tests.unchanged.exact import GPT2_WIDTH, Adapter, gpt2_base, net_base, oriented


def plant(place: Path, root: Path) -> None:
    """Publish everything into the registry in the folder ``place``; what is published lies in ``root``."""
    planting = Planting(place, root)
    with closing(planting.into):
        planting.bases()
        planting.chain()
        planting.turned()
        planting.single()
        planting.given_back()
        planting.others()
        planting.said_about()


class Planting:
    """A registry, and the folders that things are made in."""

    def __init__(self, place: Path, root: Path) -> None:
        self.into = registry.connect(place)
        self._root = root
        self._numbers = itertools.count(1)

    def publish(self, adapter: Adapter, path: str, beside: Mapping[str, str] | None = None, **options: Any) -> Path:
        """Write the adapter and publish it; its folder."""
        folder = adapter.write(self._root / f"adapter-{next(self._numbers)}", beside)
        self.into.publish(folder, path, **options)
        return folder

    def bases(self) -> None:
        """One file in fp32, three in bf16, and one that transformers knows."""
        self.into.add_base("net", net_base(self._root / "net", "net"))
        self.into.add_base("shards", net_base(self._root / "shards", "shards", dtype="BF16", shards=3))
        self.into.add_base("gpt2", gpt2_base(self._root / "gpt2"))

    def chain(self) -> None:
        """Three links: plain pairs on every kind of module, rsLoRA with patterns, values beside a pair."""
        first = Adapter("a").pair("body.fc", 16, 64).pair("body.turned", 64, 16).convolution("body.conv", (8, 4, 2, 2))
        beside = {"README.md": "# a\n", "tokenizer.json": "{}", "extra/deep/notes.txt": "notes"}
        self.publish(first, "net/a", beside, message="first\nmore of it", metrics={"acc": 0.5}, tags=["prod"])
        second = Adapter("b", 4, 8, {"use_rslora": True, "rank_pattern": {"body.turned": 1}})
        second.pair("body.fc", 16, 64)
        second.r = 1
        second.pair("body.turned", 64, 16)
        second.r = 4
        self.publish(second, "net/a/b", annotations={"data": "second"})
        third = Adapter("c", config={"bias": "lora_only", "modules_to_save": ["head"]})
        third.config["trainable_token_indices"] = {"emb": [3, 1, 60]}
        third.pair("body.fc", 16, 64).value("body.fc.base_layer.bias", (16,)).value("head.weight", (16, 16))
        third.value("emb.token_adapter.trainable_tokens_delta", (3, 16))
        self.publish(third, "net/a/b/c", parent="net/a/b@1", tags=["v1.0", "prod"])
        newer = Adapter("a2", config={"lora_bias": True}).pair("body.fc", 16, 64).value("body.fc.lora_B.bias", (16,))
        self.publish(newer, "net/a", metrics={"acc": 0.75, "loss": 2.0})

    def turned(self) -> None:
        """DoRA on the base, a plain link on it, and DoRA on that; of bf16 factors, too."""
        weights = {module: oriented("net", module) for module in ("body.fc", "body.turned", "emb")}
        self.publish(_turn("d", weights, (1, 7), magnitude=True), "net/dora")
        plain = {module: weights[module] for module in ("body.fc", "body.turned")}
        self.publish(_turn("e", plain, (2,), magnitude=False), "net/dora/plain")
        self.publish(_turn("f", plain, (3, 7), magnitude=True), "net/dora/plain/again")
        half = {"body.fc": oriented("shards", "body.fc")}
        adapter = _turn("g", half, (5, 6), magnitude=True)
        adapter.dtype = "BF16"
        self.publish(adapter, "shards/dora")

    def single(self) -> None:
        """One path for each of the other parts."""
        self.publish(Adapter("embedding").pair("emb", 16, 64), "net/embedding")
        self.publish(Adapter("experts").experts("body.experts", "up", (2, 16, 16)), "net/experts")
        self.publish(Adapter("many", 32, 64).pair("body.fc", 16, 64), "net/many")  # a rank above the matrix
        self.publish(Adapter("few", 4, 8).few("body.fc", 16, 64).few("body.turned", 64, 16), "net/few")
        self.publish(Adapter("half", dtype="F16").pair("body.fc", 16, 64), "net/half")
        norm = Adapter("norm", config={"modules_to_save": ["norm"]}).value("norm.weight", (16,)).pair("body.fc", 16, 64)
        self.publish(norm, "net/norm")

    def given_back(self) -> None:
        """What was fetched comes back: a parent known by a receipt, and a composed adapter as one of its own."""
        merged, composed = self._root / "merged", self._root / "composed"
        self.into.fetch("net/a@1", merged, kind="merged")
        child = Adapter("child").pair("body.fc", 16, 64)
        self.publish(child, "net/a/child", receipt=merged / "registry-receipt.json")
        self.into.fetch("net/a/b@1", composed)
        self.into.publish(composed, "net/flat")

    def others(self) -> None:
        """The same chain below the sharded base, and a tied head below the one that transformers knows."""
        self.publish(Adapter("s").pair("body.fc", 16, 64).pair("emb", 16, 64), "shards/a")
        self.publish(Adapter("t").pair("body.fc", 16, 64).pair("body.turned", 64, 16), "shards/a/b")
        width = GPT2_WIDTH
        attention = Adapter("u", config={"fan_in_fan_out": True, "task_type": "CAUSAL_LM"})
        attention.pair("transformer.h.0.attn.c_attn", 3 * width, width)
        self.publish(attention, "gpt2/a")
        self.publish(Adapter("head", config={"task_type": "CAUSAL_LM"}).pair("lm_head", 32, width), "gpt2/a/head")

    def said_about(self) -> None:
        """Tags, annotations, a protected tag, a retraction, a deletion, a materialisation."""
        self.into.tag("net/a@2", "prod")
        self.into.tag("net/a@2", "next")
        self.into.untag("net/a", "next")
        self.into.annotate("net/half@1", metrics={"acc": 0.25}, annotations={"why": "half"}, message="of half width")
        self.into.protect_tag("net", "prod")
        self.publish(Adapter("bad").pair("body.fc", 16, 64), "net/bad")
        self.into.retract("net/bad@1", reason="was trained on the test set")
        self.publish(Adapter("gone").pair("body.fc", 16, 64), "net/gone")
        self.publish(Adapter("gone2").pair("body.fc", 16, 64), "net/gone")
        self.into.delete("net/gone@1")
        self.into.materialise("net/few@1")


def _turn(name: str, weights: Mapping[str, Array], columns: tuple[int, ...], *, magnitude: bool) -> Adapter:
    adapter = Adapter(name, len(columns), 2 * len(columns), {"use_dora": True} if magnitude else {})
    for module, values in weights.items():
        adapter.turn(module, values, columns, magnitude)
    return adapter
