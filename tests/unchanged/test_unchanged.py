"""What others rely on is what it was before the table of operations: bytes, names of bytes, answers, codes, routes.

``digests.json`` was made with the commit 8efe8eb, the last one before it; ``faces.json`` has every line of that one,
and what came since. ``python -m tests.unchanged.write --faces`` adds what is new to it, and refuses to take a line away
without ``--gone``; ``python -m tests.unchanged.write`` makes both again. A change that is meant (an upgrade of a
format, another notice) is made again with the program that has it; the review then sees in the difference of the two
files what it changed, and that nothing else did. The sentences of refusals are not compared, since they may be worded
better: of a problem its code, status and fields are, of a screen its exit code and stdout.
``--show NAME`` prints what a digest is one of.

The bytes are those of any machine: see `tests.unchanged.exact`. What depends on the machine's arithmetic, or on the
version of transformers, is compared where that is the recorded one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest

from registry.app import service_app
from registry.services.local import LocalRegistry
from tests.kit.library import running
from tests.unchanged.digests import AUTHOR, Digests, digests
from tests.unchanged.faces import Faces, faces
from tests.unchanged.planting import plant
from tests.unchanged.write import DIGESTS, FACES, gone, wordless

Made = tuple[Digests, Faces]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("unchanged").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_AUTHOR", AUTHOR)
        plant(root / "registry", root)
        with (
            closing(LocalRegistry.open(root / "registry")) as opened,
            running(service_app(opened, anonymous="open")) as url,
        ):
            found = faces(root / "registry", url)
            return digests(root / "registry", url, root)[0], found


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DIGESTS.read_text(encoding="utf-8"))
    return found


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def test_what_is_handed_out_is_what_it_was(made: Made, recorded: dict[str, Any]) -> None:
    assert differing(recorded["anywhere"], made[0].anywhere) == []


def test_names_of_computed_bytes_are_what_they_were(made: Made, recorded: dict[str, Any]) -> None:
    assert sorted(recorded["arithmetic"]) == sorted(made[0].arithmetic)
    if recorded["numerics"] != made[0].numerics:
        pytest.skip(f"the arithmetic here is {made[0].numerics}, the names are those of {recorded['numerics']}")
    assert differing(recorded["arithmetic"], made[0].arithmetic) == []


def test_names_below_a_base_that_transformers_knows_are_what_they_were(made: Made, recorded: dict[str, Any]) -> None:
    assert sorted(recorded["table"]) == sorted(made[0].table)
    if recorded["transformers"] != made[0].transformers:
        pytest.skip(f"the table here is made by {made[0].transformers}, the names are of {recorded['transformers']}")
    assert differing(recorded["table"], made[0].table) == []


@pytest.mark.parametrize("section", json.loads(FACES.read_text(encoding="utf-8")))
def test_every_name_that_others_rely_on_is_there_and_recorded(made: Made, section: str) -> None:
    before = wordless(section, json.loads(FACES.read_text(encoding="utf-8"))[section])
    now = wordless(section, made[1][section])
    assert sorted(before - now) == [], "what others rely on is gone or another"
    assert sorted(now - before) == [], "new: python -m tests.unchanged.write --faces records it"


def test_no_section_is_left_out(made: Made) -> None:
    assert set(made[1]) == set(json.loads(FACES.read_text(encoding="utf-8")))


def test_a_line_that_is_gone_is_written_only_where_that_is_said() -> None:
    before = {"routes": ["GET /a", "GET /b"], "errors": ["taken: What is taken."]}
    now = {"routes": ["GET /a", "GET /c"], "errors": ["taken: Worded better."]}
    assert gone(before, now) == ["routes: GET /b"]
    assert gone(before, {**before, "routes": ["GET /a", "GET /b", "GET /c"]}) == []
