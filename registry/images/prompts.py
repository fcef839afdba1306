"""What a picture was made with: prompt and seed, where A1111's line of parameters or ComfyUI's graph says them.

Both are strangers' texts, shown as plain ones, and only what is said once counts: a graph with two samplers has no
seed. Sources: A1111's ``modules/infotext_utils.py``, ComfyUI's ``SaveImage`` and ``KSampler`` in ``nodes.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.images.about import plain, read_document

MOST_PROMPT: Final = 4000
"""Characters of a prompt that are kept."""
_MOST_GRAPH: Final = 256 << 10
_MOST_NODES: Final = 4096
_HOPS: Final = 8  # from a sampler to the text of its prompt, over nodes that change the conditioning
_PARAMETERS: Final = re.compile(r"^Steps: \d{1,9}, .{0,20000}$", re.MULTILINE)
_SEED: Final = re.compile(r"(?:^|, )Seed: (\d{1,20})(?:,|$)")
_DIGITS: Final = re.compile(r"\d{1,20}")


@dataclass(frozen=True)
class Made:
    """What a picture was made with; empty: it is not said."""

    prompt: str = ""
    seed: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether both are said, so that another picture can be the same one of another model."""
        return bool(self.prompt and self.seed)


def made_with(prompt: object, seed: object) -> Made:
    """Texts of a stranger as what a picture was made with."""
    digits = str(seed).strip() if isinstance(seed, int | str) and not isinstance(seed, bool) else ""
    return Made(plain(prompt, MOST_PROMPT), digits if _DIGITS.fullmatch(digits) else "")


def made_by(texts: Iterable[str]) -> Made:
    """What the texts in a picture say; the first that says something counts."""
    for text in texts:
        made = _of_graph(text) if text.startswith("{") else _of_parameters(text)
        if made != Made():
            return made
    return Made()


def _of_parameters(text: str) -> Made:
    """A1111's text: the prompt, maybe a negative one, and a line that begins with the steps."""
    line = _PARAMETERS.search(text)
    if line is None:
        return Made()
    seed = _SEED.search(line[0])
    prompt = text[: line.start()].partition("\nNegative prompt:")[0]
    return made_with("" if prompt.startswith("Negative prompt:") else prompt, seed and seed[1])


def _of_graph(text: str) -> Made:
    """ComfyUI's graph: a node that samples has the seed and leads to the text of its prompt."""
    graph = read_document(text.encode("utf-8", "replace")) if len(text) <= _MOST_GRAPH else {}
    found = set()
    for node in list(graph.values())[:_MOST_NODES]:
        inputs = _inputs(node)
        if "positive" in inputs and ("seed" in inputs or "noise_seed" in inputs):
            found.add(made_with(_prompt(graph, inputs["positive"]), inputs.get("seed", inputs.get("noise_seed"))))
    return found.pop() if len(found) == 1 else Made()


def _inputs(node: object) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _prompt(graph: Mapping[str, Any], link: object) -> str:
    for _ in range(_HOPS):
        inputs = _inputs(graph.get(str(link[0]))) if isinstance(link, list) and link else {}
        if isinstance(inputs.get("text"), str):
            return str(inputs["text"])
        link = inputs.get("conditioning") or inputs.get("positive") or inputs.get("text")
    return ""
