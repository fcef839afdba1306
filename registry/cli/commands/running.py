"""What is said after `registry ps`, and what `--wait` of other commands waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from registry.cli.session import Session
from registry.cli.waiting import Change, wait
from registry.errors import ConflictError
from registry.figures import counted

if TYPE_CHECKING:
    from registry.schemas import Retracted, Tagged
    from registry.schemas.running import Running, WhatRuns

_NAMED: Final = 3


def after_listing(run: Session, answer: WhatRuns, given: Mapping[str, Any]) -> None:
    """How many are not in place, and what nobody serves; nothing, if all is as it should be."""
    if run.as_json:
        return
    if given["unserved"]:
        if not answer:
            run.say("Every tag that is protected by its name, or followed somewhere, is served.")
        return
    if not answer:
        run.say("No follower reports that it serves anything of this: `registry follow` and vLLM's plugin do.")
    states = Counter(one.state for one in answer)
    told = [f"{states[state]} {state}" for state in ("behind", "failed", "lost") if states[state]]
    if told:
        run.say(f"Of {counted(len(answer), 'name')} at followers: {', '.join(told)}.")
    if given["state"] is None and given["limit"] is None and not _is_revision(given["ref"]):
        nobody = run.registry.running(given["ref"], unserved=True, limit=_NAMED + 1)
        if nobody:
            names = ", ".join(one.name or "" for one in nobody[:_NAMED])
            more = ", and more" if len(nobody) > _NAMED else ""
            run.say(f"Nobody serves {names}{more}: `registry ps --unserved`.")


def _is_revision(ref: str | None) -> bool:
    selector = (ref or "").partition("@")[2]
    return selector.isdigit() or selector.startswith("sha256:")


def wait_for_tag(run: Session, answer: Tagged, timeout: float) -> None:
    """Wait until every live follower of a tag serves what it points at.

    Raises:
        NotInPlaceError, UnavailableError: see `registry.cli.waiting.wait`.
        ConflictError: ``tag_moved``: it points at something else by now.
    """
    name, reference = f"{answer.path}@{answer.tag}", answer.reference

    def ask() -> Sequence[Running]:
        rows = run.registry.running(name)
        moved = next((row for row in rows if row.points_at != reference), None)
        if moved is not None:
            now = moved.points_at or "nothing that is available"
            raise ConflictError(f"{name} was pointed at {reference}, and points at {now} by now.", code="tag_moved")
        return rows

    change = Change(
        what=f"dropped {name}" if reference is None else f"got {reference}",
        stays=f"{name} is removed." if reference is None else f"{name} points at {reference}.",
        has=lambda row: row.serves == reference,
        is_about=lambda row: row.wants in {reference, None},
    )
    wait(run, change, ask, timeout)


def wait_for_retraction(run: Session, answer: Retracted, timeout: float) -> None:
    """Wait until no live follower serves what was retracted.

    Raises:
        NotInPlaceError, UnavailableError: see `registry.cli.waiting.wait`.
    """
    gone = {answer.reference, *answer.descendants}
    path = answer.reference.partition("@")[0]
    # What was combined of it may be anywhere on the base model.
    below = all(one == answer.reference or one.startswith((f"{path}@", f"{path}/")) for one in gone)
    where = path if below else path.partition("/")[0]
    change = Change(
        what="dropped what was retracted",
        stays=f"{answer.reference} is retracted.",
        has=lambda row: row.serves not in gone,
        concerns=lambda row: row.serves in gone,
    )
    wait(run, change, lambda: run.registry.running(where), timeout)
