"""PEFT's own code, taken from its installed source: importing PEFT takes many seconds, reading it none."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def _tree(path: str) -> ast.Module:
    spec = find_spec("peft")
    if spec is None or spec.origin is None:
        raise AssertionError("PEFT is not installed")
    return ast.parse((Path(spec.origin).parent / path).read_text())


def functions(*wanted: tuple[str, str]) -> dict[str, Any]:
    """Functions and classes of PEFT, given as (file, name), that need nothing but `re` and one another."""
    space: dict[str, Any] = {"re": re}
    for path, name in wanted:
        node = next(node for node in _tree(path).body if getattr(node, "name", None) == name)
        code = "from __future__ import annotations\n" + ast.unparse(node)
        exec(compile(code, path, "exec"), space)
    return space


@cache
def config_fields() -> dict[str, str]:
    """Fields of PEFT's LoraConfig and of what it inherits -> their annotations."""
    found = {"auto_mapping": "Optional[dict]"}
    for path, name in (
        ("config.py", "PeftConfigMixin"),
        ("config.py", "PeftConfig"),
        ("tuners/lora/config.py", "LoraConfig"),
    ):
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        found[field.target.id] = ast.unparse(field.annotation)
    return found
