"""What a variant is: one idea of PEFT's, with all that the registry knows about it.

To add one, write a file that makes a `Variant` and name it in `registry.tensors.checkpoint.variants.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from registry.tensors.checkpoint.field_rules import Rule
from registry.tensors.checkpoint.variants.draft import Draft


@dataclass(frozen=True)
class Variant:
    """One idea.

    ``fields`` are its fields of adapter_config.json with the rule of each, in the order of the checks. ``tails`` are
    the ends of its tensors' names, after the module, with the part that each stands for. ``fold`` checks its tensors
    against the base and brings what they mean into the normal form; it claims every tensor that it understands.
    ``finish`` checks the whole, once every variant has folded.
    """

    name: str
    fields: Mapping[str, Rule] = field(default_factory=dict)
    tails: Mapping[str, str] = field(default_factory=dict)
    fold: Callable[[Draft], None] | None = None
    finish: Callable[[Draft], None] | None = None
