"""What differs, at a glance: signs in front, sections with something in them, other base models first."""

from __future__ import annotations

from typing import Any

from registry.cli.render.screen import lines_of
from registry.schemas.comparisons import difference
from registry.schemas.difference import Difference
from tests.cli.canned import DIFFERENCE, LINEAGE, digest_of


def text(found: Difference, width: int | None = None) -> list[str]:
    return ["".join(span.text for span in line) for line in lines_of(difference(found), width)]


def changed(**changes: Any) -> Difference:
    return DIFFERENCE.model_copy(update=changes)


def test_signs_say_which_side_has_it() -> None:
    assert text(DIFFERENCE) == [
        "llama-1b/support@2 -> llama-1b/support@3",
        '  ~  message  Trained on the tickets of March, as they came in, all of them -> ""',
        "  ~  tags     - stable  + prod",
        "  ~  size     6.29 MB -> 12.6 MB",
        "",
        "Configuration",
        "  ~  target_modules          the same in another order",
        "  +  rank_pattern.down_proj  4",
        "  -  use_rslora              none",
        "",
        "Targets",
        "  ~  q_proj  22 x rank 8 scaling 2 -> 1 x rank 4, 8 scaling 1.41421, 2",
        "",
        "Metrics",
        "  ~  acc  0.8 -> 0.8125 (+0.0125)",
        "  +  f1   0.79",
        "",
        "Annotations",
        "  -  data  tickets",
        "",
        "Files",
        "  +  README.md  9 B ffffffffffff",
        "",
        "Lineage",
        "  =  llama-1b                   the last in common",
        "  -  llama-1b/support@2         222222222222  rank 16",
        "  +  llama-1b/support/french@2  222222222222  rank 8",
        "  ~  pinned llama-1b/support    @2 -> @3",
    ]


def test_other_base_models_come_first() -> None:
    other = LINEAGE[0].model_copy(update={"reference": "qwen", "digest": digest_of("c")})
    assert text(changed(bases=(LINEAGE[0], other)))[2:5] == [
        "Other base models",
        "  -  llama-1b  aaaaaaaaaaaa  base model",
        "  +  qwen      cccccccccccc  base model",
    ]


def test_nothing_differs() -> None:
    assert text(changed(identical=True))[1:] == ["nothing differs"]


def test_colours_by_meaning() -> None:
    styles = {span.text: span.style for line in lines_of(difference(DIFFERENCE), None) for span in line}
    assert (styles["-"], styles["+"], styles["~"]) == ("red", "green", "yellow")
