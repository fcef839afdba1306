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


@cache
def functions(path: str, *names: str) -> dict[str, Any]:
    """Functions and classes of a module of PEFT that need nothing but `re`."""
    wanted = [
        node for node in _tree(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names
    ]
    assert len(wanted) == len(names)
    for node in wanted:
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
    space: dict[str, Any] = {"re": re}
    exec(compile(ast.Module(body=list(wanted), type_ignores=[]), path, "exec"), space)
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
