"""The pictures in the README."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import registry
from tests.house import badges, tree_picture
from tests.kit import bert_base, write_adapter


def words(picture: str) -> str:
    return " ".join("".join(ElementTree.fromstring(picture).itertext()).split())


def test_the_picture_loads_nothing_and_shows_the_demo() -> None:
    picture = tree_picture.PICTURE.read_text(encoding="utf-8")
    assert re.findall(r"\w+://[^\"' ]+", picture) == ["http://www.w3.org/2000/svg"]
    for word in ("minilm", "support", "shop", "hotel", "urgency"):
        assert word in words(picture)


def test_a_picture_shows_what_the_registry_has(tmp_path: Path) -> None:
    base = bert_base(tmp_path / "base")
    write_adapter(tmp_path / "one", base, ["query"], r=4)
    with closing(registry.connect(tmp_path / "registry")) as team:
        team.add_base("tiny", base.folder)
        team.publish(tmp_path / "one", "tiny/first", tags=["prod"])
    shown = words(tree_picture.draw(tmp_path / "registry"))
    assert "tiny" in shown
    assert "└── first" in shown
    assert "[prod]" in shown


def test_the_badges_say_what_the_project_says_and_load_nothing() -> None:
    for name, drawn in badges.badges().items():
        assert (badges.IMAGES / name).read_text(encoding="utf-8") == drawn, "run python -m tests.house.badges"
        assert re.findall(r"\w+://[^\"' ]+", drawn) == ["http://www.w3.org/2000/svg"]
    assert words(badges.badges()["license.svg"]) == "License: Apache-2.0 License Apache-2.0"
