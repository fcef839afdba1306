"""How parents are known, in words: for each word that the documentation lists."""

from __future__ import annotations

import re

from registry.schemas.parents import KNOWN_BY, known_by
from tests.root import ROOT


def test_each_word_that_is_documented_has_words() -> None:
    table = (ROOT / "docs" / "concepts.md").read_text().partition("| word | the parent is known by |")[2]
    documented = re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)
    assert len(documented) == 11
    assert {"assumed", "receipt"} < set(documented)
    assert all(re.fullmatch(KNOWN_BY, word) for word in documented)
    assert [word for word in documented if known_by(word) == word] == ["assumed"]  # which is plain as it is
    assert known_by("of_a_later_version") == "of_a_later_version"
