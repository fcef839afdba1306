"""The words of a search as one condition: each is found in a name, a tag, the author, the message, the name of a
metric, an annotation or the edited card; and the keys of the revisions that may have all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, true, union_all
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, Revision, Tag, table_of
from registry.catalogue.database.team_tables import CardRecord
from registry.catalogue.database.transactions import finds
from registry.catalogue.tree.search_index import REVISION_TEXTS, Has, cards_having, having, revisions_having
from registry.catalogue.tree.search_near import NOTHING_NEAR, Near, near
from registry.schemas.search_text import SHORT

MOST_CARDS: Final = 1000
"""Adapters of which a word is looked for in the card."""
_REVISIONS: Final = table_of(Revision)
_ADAPTERS: Final = table_of(Adapter)
_AROUND: Final = literal("/") + Adapter.path + literal("/")
_PARTS: Final = func.replace(func.replace(func.replace(_AROUND, "-", "/"), "_", "/"), ".", "/")


@dataclass(frozen=True)
class Word:
    """A word or phrase, the adapters whose card has it, and what counts for it if typos do."""

    text: str
    cards: frozenset[int] = frozenset()
    near: Near = NOTHING_NEAR

    @property
    def is_short(self) -> bool:
        """Whether it has to be a whole name or tag."""
        return len(self.text) <= SHORT

    @property
    def has(self) -> Has:
        """What the text of a revision has that has it, but for its card."""
        if self.is_short:
            return Has(any_of=having(f"/{self.text}/", f"@{self.text}@").all_of)
        others = (*self.near.names, *(f"@{tag}@" for tag in self.near.tags), *self.near.authors)
        return Has(any_of=having(self.text, *others).all_of) if others else Has(self.text)

    @property
    def holds(self) -> ColumnElement[bool]:
        """Of `Revision` and its `Adapter`."""
        if self.is_short:
            return or_(_AROUND.contains(f"/{self.text.lower()}/", autoescape=True), _tagged([self.text.lower()]))
        found = [_said([self.text])]
        if self.cards:
            found.append(Adapter.id.in_(self.cards))
        for name in self.near.names:
            where = _PARTS if name.isalnum() else _AROUND
            found.append(where.contains(f"/{name}/", autoescape=True))
        if self.near.tags:
            found.append(_tagged(self.near.tags))
        if self.near.authors:
            found.append(Revision.author.in_(self.near.authors))
        return or_(*found)

    @property
    def is_plain(self) -> bool:
        """Whether only the text of a revision says whether it has it."""
        return not self.is_short and not self.cards and self.near == NOTHING_NEAR


def _said(words: Sequence[str]) -> ColumnElement[bool]:
    """The condition that the text of a revision has words, whatever their case."""
    held = [REVISION_TEXTS.c.text.icontains(word, autoescape=True) for word in words]
    return finds(select(REVISION_TEXTS.c.rowid).where(REVISION_TEXTS.c.rowid == Revision.id, *held))


def _tagged(names: Sequence[str]) -> ColumnElement[bool]:
    return finds(select(Tag.name).where(Tag.revision_id == Revision.id, Tag.name.in_(names)))


def looked_up(session: Session, words: Sequence[str], *, typos: bool = False) -> tuple[Word, ...]:
    """Words, with the cards that have them, and with what is one edit away."""
    found = (Word(word, near=near(session, word) if typos else NOTHING_NEAR) for word in words)
    return tuple(one if one.is_short else replace(one, cards=_cards(session, one.text)) for one in found)


def _cards(session: Session, word: str) -> frozenset[int]:
    """Adapters that this session sees whose edited card has a word."""
    query = select(CardRecord.adapter_id).join(Adapter, Adapter.id == CardRecord.adapter_id)
    indexed = cards_having(session, Has(word))
    query = query.where(*([] if indexed is None else [indexed]), CardRecord.text.icontains(word, autoescape=True))
    return frozenset(session.scalars(query.order_by(CardRecord.adapter_id.desc()).limit(MOST_CARDS)))


def held(words: Sequence[Word]) -> ColumnElement[bool]:
    """The condition that a revision has all the words."""
    plain = [word.text for word in words if word.is_plain]
    return and_(*([_said(plain)] if plain else []), *(word.holds for word in words if not word.is_plain))


def adapters_having(session: Session, words: Sequence[Word], also: Sequence[Has]) -> ColumnElement[bool]:
    """The condition that an adapter has a revision that may have all the words."""
    keys = keys_having(session, words, also)
    if keys is None:
        return true()
    if session.get_bind().dialect.name == "postgresql":
        own = revisions_having(session, Has(all_of=(*(word.has for word in words), *also)), REVISION_TEXTS.c.adapter_id)
        cards = frozenset[int]().union(*(word.cards for word in words))
        return or_(Adapter.id.in_(keys if own is None else own), Adapter.id.in_(cards))
    # As an expression, which no index of keys is taken for: adapters are looked at in their order.
    proposed = select(_REVISIONS.c.id).where(_REVISIONS.c.adapter_id == Adapter.id, (_REVISIONS.c.id + 0).in_(keys))
    return finds(proposed.correlate(_ADAPTERS))


def keys_having(session: Session, words: Sequence[Word], also: Sequence[Has]) -> Select[int] | None:
    """Keys of the revisions that may have all the words, and what else their texts have; None: no index knows.

    Of an adapter whose card has some of the words, those are found that have the others.
    """
    everywhere = revisions_having(session, Has(all_of=(*(word.has for word in words), *also)))
    if everywhere is None:
        return None
    of_cards: dict[int, set[int]] = defaultdict(set)
    for place, word in enumerate(words):
        for adapter in word.cards:
            of_cards[adapter].add(place)
    alike: dict[frozenset[int], list[int]] = defaultdict(list)
    for adapter, places in of_cards.items():
        alike[frozenset(places)].append(adapter)
    found = [everywhere]
    for carded, adapters in alike.items():
        others = (*(word.has for place, word in enumerate(words) if place not in carded), *also)
        own = select(_REVISIONS.c.id).where(_REVISIONS.c.adapter_id.in_(adapters))
        narrowed = revisions_having(session, Has(all_of=others)) if others else None
        found.append(own if narrowed is None else own.where(_REVISIONS.c.id.in_(narrowed)))
    if len(found) == 1:
        return everywhere
    together = union_all(*found).subquery()
    return select(together.c.id)
