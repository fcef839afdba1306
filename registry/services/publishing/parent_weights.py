"""The parent by the weights in the folder that an adapter was trained on.

The weights prove a parent, contradict one, or match nothing known here; if they can't be compared, a notice says so.
They prove one only if the folder is older than the adapter and is that parent's bit for bit, see decision 26. The
comparison is made where the folder is: a service relies on what its client reports.

If all revisions were searched, nothing is assumed: the weights are those of one path alone, or the publish is refused
with what is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.catalogue.tree import revisions
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import ConflictError, RegistryError, UsageError
from registry.figures import counted
from registry.reference import Reference
from registry.schemas import Fitting, FolderCompared
from registry.schemas.parents import level_of, strongest
from registry.services.publishing.hub_parent import LISTED, Place, Proof

_SETTLE = (
    "What settles it: the receipt of the folder that it was trained on (--receipt FILE), or your word (--parent REF "
    "--skip-parent-check)."
)


def check_found(compared: FolderCompared, *, named: bool) -> None:
    """Check that a search found one path alone; of several that fit equally, other evidence may have ``named`` one.

    Revisions whose links have the same files are one path: the path of the new adapter decides which of them it is.

    Raises:
        UsageError: ``parent_ambiguous``, it found none, several, or the links of one in another order.
    """
    words = f"the weights in {compared.words}, which the adapter was trained on"
    if compared.order:
        raise ambiguous(other_order(compared))
    if compared.retracted:
        fits = [one.reference for one in compared.fitting]
        raise ambiguous(
            f"{words[:1].upper()}{words[1:]}, may be those of {', '.join(compared.retracted)}: retracted, so that a "
            f"service doesn't give its weights to be compared{f'. They also fit {fits[0]}' if fits else ''}. Nothing "
            "is published on a retracted revision."
        )
    if not compared.fitting:
        raise ambiguous(
            f"{words[:1].upper()}{words[1:]}, are those of none of the {counted(compared.searched or 0, 'revision')} "
            f"that were searched (never exact full fine-tunes){_near(compared)}. If something was merged into them "
            "that was never published, publish that first."
        )
    if compared.why_not is not None and not named:
        raise ambiguous(f"{compared.why_not[:1].upper()}{compared.why_not[1:]}.")
    if not named and len({one.weights for one in compared.fitting}) > 1:
        names = [one.reference for one in compared.fitting]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise UsageError(
            f"{words[:1].upper()}{words[1:]}, match {', '.join(names[:LISTED])}{more} equally: their bits don't show "
            "which one it was. What settles it: the receipt of that folder (--receipt FILE), or your word (--parent "
            "REF).",
            code="parent_ambiguous",
        )


def other_order(compared: FolderCompared) -> str:
    """What a folder is whose links were merged in an order that no path has."""
    return (
        f"The weights in {compared.words}, which the adapter was trained on, were made by merging "
        f"{' then '.join(compared.order)}: their roundings show that order, and no path here has it. Publish them in "
        "that order first."
    )


def reason_of(compared: FolderCompared, reference: str) -> str:
    """Why a parent is pinned that was found."""
    return (
        f"the weights in {compared.words}, which the adapter was trained on, are those of {reference}: "
        f"{compared.proof} (searched: {counted(compared.searched or 0, 'revision')})"
        f"{', times unknown' if compared.word == 'compared_untimed' and '@' in reference else ''}"
    )


def ambiguous(what: str) -> UsageError:
    """The error if a search proves nothing."""
    return UsageError(f"{what} {_SETTLE}", code="parent_ambiguous")


def not_found(known_by: str, reference: str, notices: tuple[str, ...]) -> UsageError:
    """The error if a search had nothing to go by, so that the parent would only be assumed.

    ``notices`` describe why the folder that it was trained on could not be compared, if it exists.
    """
    why = " ".join(notices) or (
        "The folder that its configuration names is not there; if it was moved, give the one around it with --look-in "
        "DIR."
    )
    return ambiguous(
        f"Nothing shows what the adapter was trained on. {why} Its parent could only be {known_by}, {reference}, and "
        "with --find-parent that is not enough."
    )


def _near(compared: FolderCompared) -> str:
    if not compared.near:
        return ""
    named = [f"{one.reference} ({100 * one.distance:.3g} % of its norm away)" for one in compared.near]
    return f"; the nearest are {', '.join(named)}" if len(named) > 1 else f"; the nearest is {named[0]}"


_NEWER = " The folder is newer than the adapter: something else may have been saved there since."
_NOR_ABOVE = ", nor of anything above it"
_OVERRIDE = "if you are sure of the parent (adapters may have been merged into that model in memory), give it with "


def of_weights(
    session: Session, place: Place, compared: FolderCompared, what: str, said: Proof | None
) -> tuple[Proof | None, tuple[str, ...]]:
    """The parent by the weights (None: they show nothing), and notices.

    ``said`` is the parent by other evidence, if any, and ``what`` names that evidence. A folder that is newer than the
    adapter proves nothing for it, and nothing against a person, a receipt or a view. What only fits within rounding is
    pinned if no other evidence names a parent, and is assumed.

    Raises:
        ConflictError: ``parent_mismatch``, the weights are those of another revision; ``parent_unproven``, of none.
        UsageError: ``parent_ambiguous``, they are equally those of several revisions; or a search proved none.
    """
    if compared.reason is not None:
        return None, _not(compared)
    why_not = _noticed(compared)
    if compared.shows_nothing and said is not None and level_of(said.known_by) != "assumed":
        return said, why_not
    _check(place, compared, named=said is not None)
    rows = _admitted(session, place, compared.fitting)
    if said is not None:
        return _agreeing(place, compared, what, said, rows), why_not or _partly(compared)
    if not rows:
        raise _mismatch(place, compared, "")
    if compared.shows_nothing:
        return None, why_not
    if len(rows) > 1:
        names = ", ".join(row.reference if row else place.base.name for row in rows)
        raise UsageError(
            f"The weights in {compared.words}, which the adapter was trained on, match {names} equally; give the "
            "right one with --parent REF.",
            code="parent_ambiguous",
        )
    return _alone(place, compared, rows[0]), why_not or _partly(compared)


def _check(place: Place, compared: FolderCompared, *, named: bool) -> None:
    """Check that something fits."""
    if compared.searched is not None:
        check_found(compared, named=named)
    elif compared.order:
        raise ambiguous(other_order(compared))
    if not compared.fitting:
        raise _unproven(_wanted(place) + ("" if place.above.is_base else _NOR_ABOVE), compared)


def _agreeing(
    place: Place, compared: FolderCompared, what: str, said: Proof, rows: Sequence[RevisionRow | None]
) -> Proof:
    """The parent by other evidence, if the weights don't contradict it."""
    if said.row not in rows:
        name = said.row.reference if said.row else f"the base model {place.base.name}"
        raise _mismatch(place, compared, f"{what} says {name}, but")
    if compared.why_not is not None:
        return said
    known_by = strongest([said.known_by, _word_of_weights(compared, said.row)])
    return Proof(said.row, f"{said.reason}, and {_weights_are(compared, said.row)}", known_by)


def _alone(place: Place, compared: FolderCompared, row: RevisionRow | None) -> Proof:
    """The parent by the weights alone."""
    if compared.why_not is not None:
        return Proof(row, f"nothing is nearer to what it was trained on, but {compared.why_not}", "assumed")
    word = _word_of_weights(compared, row)
    if compared.searched is not None:
        return Proof(row, reason_of(compared, row.reference if row else place.base.name), word)
    return Proof(row, f"{_weights_are(compared, row)}, which the adapter was trained on", word)


def _noticed(compared: FolderCompared) -> tuple[str, ...]:
    """A notice about weights that prove nothing."""
    clause = compared.why_not
    return () if clause is None else (f"{clause[:1].upper()}{clause[1:]}.",)


def _word_of_weights(compared: FolderCompared, row: RevisionRow | None) -> str:
    """How weights show a parent. Those of the plain base model only name it.

    A model that adapters were merged into in memory keeps the name of the folder that it was loaded from.
    """
    return "named" if row is None else compared.word


def _weights_are(compared: FolderCompared, row: RevisionRow | None) -> str:
    """What the comparison shows of a parent that fits, as a clause with how far that is proven."""
    if compared.word == "sampled":
        return f"samples of its weights are those in {compared.words}"
    untold = " (their times are unknown)" if _word_of_weights(compared, row) == "compared_untimed" else ""
    return f"its weights are those in {compared.words}{untold}"


def of_planned(above: str, digest: str, compared: FolderCompared) -> tuple[str | None, tuple[str, ...]]:
    """How it is known by the weights that they are those of a planned revision of ``above`` (None: they show nothing),
    and notices.

    Raises:
        ConflictError: ``parent_mismatch``, ``parent_unproven``.
    """
    if compared.reason is not None:
        return None, _not(compared)
    if not compared.fitting:
        raise _unproven(f"the folder above, which is published as {above}{_NOR_ABOVE}", compared)
    if digest in {one.digest for one in compared.fitting}:
        if compared.why_not is not None:
            return None, _noticed(compared)
        return compared.word, _partly(compared)
    names = ", ".join(one.reference for one in compared.fitting)
    raise ConflictError(
        f"The weights in {compared.words}, which the adapter was trained on, are those of {names}, not those of the "
        f"folder above, which is published as {above}: put it below what it was trained on; or publish it separately "
        f"and, {_OVERRIDE}--parent REF --skip-parent-check.",
        code="parent_mismatch",
    )


def _not(compared: FolderCompared) -> tuple[str, ...]:
    notice = (
        f"The folder {compared.words}, which the adapter was trained on, was not compared with its parent: "
        f"{compared.reason}."
    )
    return (notice,)


def _partly(compared: FolderCompared) -> tuple[str, ...]:
    if compared.looked_at is None:
        return ()
    notice = (
        f"The folder {compared.words} was only partly compared with the parent: in {compared.looked_at}, as many as "
        "the limits allow, without a difference."
    )
    return (notice,)


def _admitted(session: Session, place: Place, fitting: tuple[Fitting, ...]) -> list[RevisionRow | None]:
    """The fitting candidates that the path admits as parents; None is the base model."""
    rows: list[RevisionRow | None] = []
    for one in fitting:
        reference = Reference.parse(one.reference)
        if reference.path != place.above:
            continue
        if place.above.is_base:
            rows.append(None)
            continue
        # By its whole digest, which can't be guessed.
        rows += revisions.pinnable(session, place.path, digest=one.digest)
    return rows


def _mismatch(place: Place, compared: FolderCompared, lead: str) -> RegistryError:
    names = ", ".join(one.reference for one in compared.fitting)
    fits = Reference.parse(compared.fitting[0].reference)
    advice = ""
    if fits.path != place.above:
        advice = f"publish under {fits.path}, or, "
    elif lead.startswith("--parent "):
        advice = f"give --parent {fits}, or, "
    what = f"{lead} the weights in {compared.words}, which the adapter was trained on, are those of {names}".strip()
    path = "" if lead else f", not those of {_wanted(place)}, the parent given by the path"
    return ConflictError(
        f"{what[:1].upper()}{what[1:]}{path}; {advice}{_OVERRIDE}--parent REF --skip-parent-check."
        f"{_NEWER if compared.is_later else ''}",
        code="parent_mismatch",
    )


def _wanted(place: Place) -> str:
    return f"the base model {place.base.name}" if place.above.is_base else f"a revision of {place.above}"


def _unproven(wanted: str, compared: FolderCompared) -> RegistryError:
    newer = _NEWER if compared.is_later else ""
    nearest = ""
    if compared.nearest is not None:
        nearest = (
            f" {compared.nearest} is the closest, {100 * compared.distance:.3g} % of its norm away, with the largest "
            f"difference in {compared.tensor!r}."
        )
    return ConflictError(
        f"The weights in {compared.words}, which the adapter was trained on, are not those of "
        f"{wanted}.{nearest}{newer} First publish what was merged into them, then this adapter under it; or, "
        f"{_OVERRIDE}--parent REF --skip-parent-check.",
        code="parent_unproven",
    )
