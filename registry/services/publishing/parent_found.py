"""The parent by a search among all revisions: what proves it, and what is said where nothing does.

Nothing is assumed here: the weights are those of one path alone, or the publish is refused with what is nearest.
"""

from __future__ import annotations

from registry.errors import UsageError
from registry.figures import counted
from registry.schemas import FolderCompared
from registry.services.publishing.hub_parent import LISTED

_SETTLE = (
    "What settles it: the receipt of the folder that it was trained on (--receipt FILE), or your word (--parent REF "
    "--skip-parent-check)."
)


def check_found(compared: FolderCompared, *, named: bool) -> None:
    """Check that a search found one path alone; of several that fit equally, other evidence may have ``named`` one.

    Revisions whose links have the same files are one path: which of them it is, the place of the new adapter says.

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
    """The error where a search proves nothing."""
    return UsageError(f"{what} {_SETTLE}", code="parent_ambiguous")


def not_found(known_by: str, reference: str, notices: tuple[str, ...]) -> UsageError:
    """The error where there was nothing to search with, so that the parent would only be assumed.

    ``notices`` say why the folder that it was trained on could not be compared, if it is there.
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
