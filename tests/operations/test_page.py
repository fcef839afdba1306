"""The first part of docs/python.md is one program that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.python_page import BEGIN, PAGE


def test_the_page_runs_as_it_is_written(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(workshop / "cache"))
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    told = capsys.readouterr().out
    assert "llama/support@1" in told
    assert "  support@1 [prod], rank 4, acc=0.88" in told
    assert "not_found " in told
