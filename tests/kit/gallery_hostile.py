"""An adapter of somebody who tries to run code in the browsers of those who look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Annotation, Metric
from registry.catalogue.tree import revisions
from registry.reference import Reference
from registry.services.local import LocalRegistry
from tests.kit.bases import plain_base
from tests.kit.gallery_story import HOSTILE
from tests.kit.gallery_texts import ATTACKS, HOSTILE_CARD, LINKS, RUNS
from tests.kit.png import chunk, png
from tests.kit.recipes import Recipe, write_recipe

ADAPTER: Final = f"{HOSTILE}/probe"


def publish_hostile(registry: LocalRegistry, folder: Path) -> None:
    """A base model and an adapter with an attack in every text that can be written."""
    names = [f"body{number}.{text}.weight" for number, text in enumerate(ATTACKS[:4])]
    base = plain_base(folder / "base", dict.fromkeys([*names, "head.weight"], (8, 8)))
    registry.add_base(HOSTILE, base.folder)
    config: dict[str, Any] = {
        "base_model_name_or_path": ATTACKS[1],
        "peft_version": ATTACKS[0],
        "auto_mapping": {"base_model_class": ATTACKS[0], "parent_library": ATTACKS[1]},
        "revision": ATTACKS[2],
    }
    recipe = Recipe(("head", *(name for name in base.modules if name != "head")), config=config)
    made = write_recipe(folder / "adapter", base, recipe)
    (made / "README.md").write_text(HOSTILE_CARD)
    (made / "'&quot;&#x3c;b&#x3e; ${globalThis.hacked=1} {{7-7}}.txt").write_text(ATTACKS[0])
    for name in ("evil.html", "evil.svg", "evil.xml", "evil.js"):
        (made / name).write_text(f"<script xmlns='http://www.w3.org/1999/xhtml'>{RUNS}</script>")
    _add_previews(made / "previews")
    texts = {f"attack-{number}": text for number, text in enumerate((*ATTACKS, *LINKS))}
    texts |= {"trigger_words": ATTACKS[0], "preferred_weight": ATTACKS[1], "preview_2_prompt": ATTACKS[2]}
    links = {"run_id": LINKS[0], "git_commit": LINKS[1], "learning_rate": ATTACKS[0]}
    registry.publish(made, ADAPTER, message="\n".join(ATTACKS), annotations=texts | links, metrics={"acc": 0.1})
    registry.tag(f"{ADAPTER}@1", "javascript.x")
    registry.set_card(ADAPTER, HOSTILE_CARD)
    again = write_recipe(folder / "second", base, Recipe(("head",), seed=2))
    registry.publish(again, ADAPTER, message=ATTACKS[1], annotations={"note": ATTACKS[0]})
    registry.retract(f"{ADAPTER}@2", reason=ATTACKS[0])
    registry.create_token("reader", name=ATTACKS[1])
    registry.deployment.database.change(_write_names_that_the_grammar_refuses)


def _add_previews(folder: Path) -> None:
    """Two pictures, whose own text is an attack, and what is only called one."""
    folder.mkdir()
    said = f"{LINKS[2]} {ATTACKS[5]}\nSteps: 20, Seed: 7, Model: {ATTACKS[4]}"
    (folder / "1.png").write_bytes(png(chunk(b"tEXt", b"parameters\0" + said.encode())))
    (folder / "2.jpg").write_bytes(png() + RUNS.encode())
    (folder / "3.png").write_text(f"<!doctype html><script>{RUNS}</script>")
    (folder / "4.webp").write_text(f"<svg xmlns='http://www.w3.org/2000/svg' onload='{RUNS}'/>")
    (folder / "5.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg' onload='{RUNS}'/>")


def _write_names_that_the_grammar_refuses(session: Session) -> None:
    """As a database could hold them that something else wrote to."""
    found = revisions.find(session, Reference.parse(f"{ADAPTER}@1"))
    session.add(Metric(revision_id=found.id, name=ATTACKS[0], value=1.0))
    session.add(Annotation(revision_id=found.id, key=ATTACKS[1], value=ATTACKS[0]))
