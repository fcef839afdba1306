"""The reference pages and the code say the same: every command, option, exit code, error code and setting."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from registry import errors
from registry.cli.exit_codes import EXIT_CODES, INTERRUPTED, NONE, PIPE_CLOSED, SOME, exit_code
from registry.cli.program import build_command
from registry.errors import CODES
from registry.http.errors import BY_CODE, STATUSES
from registry.settings import SETTINGS
from tests.root import ROOT

DOCS = ROOT / "docs"
SHARED = {"--url", "--json", "-h", "--help"}


def commands(group: Any, prefix: str = "registry") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


LIVE = dict(commands(build_command()))


def sections() -> dict[str, str]:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (registry .*)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def option_rows(text: str) -> list[str]:
    """The first cells of a section's table of options."""
    return re.findall(r"^\| (`-.*?) \| ", text, flags=re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """The rows of all tables on a page, as cells."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_command_has_a_section_and_no_other() -> None:
    assert sorted(sections()) == sorted(LIVE)


@pytest.mark.parametrize("name", LIVE)
def test_every_option_has_a_row_and_no_other(name: str) -> None:
    documented = [set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row)) for row in option_rows(sections()[name])]
    live = [set(option.opts) for option in LIVE[name].params if option.opts[0].startswith("-")]
    live = [options for options in live if not options & SHARED]
    assert sorted(map(sorted, documented)) == sorted(map(sorted, live))
    for options in live:
        usage = sections()[name].split("```")[1]
        assert any(option in usage for option in options)


@pytest.mark.parametrize("name", LIVE)
def test_every_argument_is_in_the_usage_and_every_section_has_an_example(name: str) -> None:
    usage, _, example = sections()[name].split("```")[1:4]
    for parameter in LIVE[name].params:
        if not parameter.opts[0].startswith("-"):
            assert re.search(rf"\b{parameter.metavar}\b", usage)
    assert f"$ {name}" in example


@pytest.mark.parametrize("name", LIVE)
def test_every_command_takes_url_and_json(name: str) -> None:
    taken = {option for parameter in LIVE[name].params for option in parameter.opts}
    assert "--json" in taken
    # These two are about an address and take it as their argument.
    assert ("--url" in taken) == (name not in {"registry login", "registry logout"})


def test_examples_fit_80_columns_except_full_digests_in_a_pipe() -> None:
    for name, text in sections().items():
        for block in text.split("```")[1::2]:
            for line in block.splitlines():
                assert len(line) <= 80 or (name == "registry resolve" and "sha256:" in line)


def test_every_exit_code_is_documented() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8").partition("### Exit codes")[2].partition("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}
    assert documented == {0, INTERRUPTED, PIPE_CLOSED, NONE, SOME} | set(EXIT_CODES.values())


def test_every_class_of_error_is_documented_with_its_exit_code_and_status() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+Error)` \| (\d) \| (\d+) \|", page, flags=re.MULTILINE)
    assert set(EXIT_CODES) <= set(STATUSES)
    assert sorted(documented) == sorted(
        (kind.__name__, str(exit_code(kind("x"))), str(status)) for kind, status in STATUSES.items()
    )


def test_every_code_with_a_status_of_its_own_is_documented() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    sentence = page.partition("a status of their own:")[2].partition(".")[0]
    assert {code: int(status) for code, status in re.findall(r"`(\w+)` (\d+)", sentence)} == BY_CODE


def documented_codes() -> dict[str, tuple[set[int], str]]:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `([a-z0-9_]+)` \| ([\d, ]+) \| (.*) \|$", page, flags=re.MULTILINE)
    return {code: ({int(status) for status in exits.split(", ")}, meaning) for code, exits, meaning in found}


def test_every_error_code_is_documented_with_its_meaning() -> None:
    assert {code: meaning for code, (_, meaning) in documented_codes().items()} == CODES


def raised() -> Iterator[tuple[str, str, int]]:
    """Where, which code and which exit code: of every error that the package raises by the name of its class."""
    for file in sorted((ROOT / "registry").rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            kind = getattr(errors, call.func.id, None)
            if not isinstance(kind, type) or not issubclass(kind, errors.RegistryError):
                continue
            given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            if not given:
                yield f"{file.name}:{call.lineno}", kind.default_code, exit_code(kind("x"))
            elif isinstance(given[0], ast.Constant):
                yield f"{file.name}:{call.lineno}", str(given[0].value), exit_code(kind("x"))


def test_every_error_that_is_raised_has_a_documented_code_and_exit_code() -> None:
    documented = documented_codes()
    wrong = [(place, code, status) for place, code, status in raised() if status not in documented[code][0]]
    assert not wrong


def test_every_setting_is_documented_and_no_other() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    documented = [row for row in rows(page) if row[0].startswith("`REGISTRY_")]
    assert documented == [
        [f"`{setting.name}`", setting.form, setting.default, setting.meaning] for setting in SETTINGS.values()
    ]


def test_every_route_is_documented_and_no_other(tmp_path: Path) -> None:
    from registry.api.openapi import json_routes
    from registry.app import service_app
    from registry.services.local import LocalRegistry

    with closing(LocalRegistry.open(tmp_path)) as opened:
        live = [(method, route.path_format) for route, method in json_routes(service_app(opened))]
    page = (DOCS / "http.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z]+)` \| `(/[^`]*)` \|", page, flags=re.MULTILINE)
    assert sorted(documented) == sorted(live)


def test_every_metric_is_documented_and_no_other(tmp_path: Path) -> None:
    from registry.http.metrics import Metrics
    from registry.http.service import of_process, of_registry
    from registry.services.local import LocalRegistry

    with closing(LocalRegistry.open(tmp_path)) as opened:
        text = Metrics(partial(of_registry, opened.deployment), partial(of_process, opened.deployment)).text().decode()
    live = {name for name in re.findall(r"^# TYPE (\w+) ", text, flags=re.MULTILINE) if not name.endswith("_created")}
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(registry_\w+)`", page, flags=re.MULTILINE)) == live
