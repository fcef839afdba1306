"""The repo that a Hub client pushes to: the path it stands for, who may push to it, and which files are accepted.

Trainers push whole folders. What does not become part of a revision is declined before its bytes travel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.store import uploads
from registry.catalogue.store.uploads import PushedRow
from registry.catalogue.tree import bases, old_names, revisions
from registry.digest import sha256_digest
from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, README
from registry.reference import Path
from registry.rights import Principal
from registry.schemas.labels import MAX_CARD
from registry.schemas.protocol import HUB_ORIGIN
from registry.services.deployment import Deployment
from registry.services.intake.uploads import drop_taken
from registry.services.publishing.candidates import require_publishing
from registry.transfer.publish_request import MAX_CONFIG

STATE: Final = "trainer_state.json"
LEAST_BY_LFS: Final = 2 << 20
"""Bytes of weights from which on they go by LFS, if the client is known to use it: it takes less time."""
MOST_INLINE: Final = 256 << 20
"""Bytes of weights in a commit; larger ones go by LFS with every client."""
MOST_LARGE: Final = 5 << 30
"""Bytes of weights that go by LFS."""
TAKEN: Final[Mapping[str, int]] = {
    ADAPTER_CONFIG: MAX_CONFIG,
    ADAPTER_WEIGHTS: MOST_LARGE,
    README: MAX_CARD,
    STATE: MAX_CONFIG,
}
"""The files that are taken, and how many bytes they may have."""
PAIR: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""The two files that make a revision."""

_PICKLED: Final = "adapter_model.bin"
_WHOLE_MODELS: Final = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_NAMED: Final = 5


@dataclass(frozen=True)
class Chosen:
    """The names of a push that are taken, and of the others those that matter to its user."""

    taken: frozenset[str]
    declined: tuple[str, ...]
    by_lfs: bool = False  # the weights go by LFS
    warned: bool = False  # which this client may not do

    @property
    def sentences(self) -> Iterator[str]:
        """What the user should know."""
        if self.declined:
            yield self._declined
        if self.warned:
            yield (
                f"{ADAPTER_WEIGHTS} has more than {MOST_INLINE >> 20} MiB and goes by LFS: if the client has hf_xet, "
                "set HF_HUB_DISABLE_XET=1 first, or use `registry publish`."
            )

    @property
    def _declined(self) -> str:
        named, more = ", ".join(self.declined[:_NAMED]), len(self.declined) - _NAMED
        others = f" and {more} more" if more > 0 else ""
        return (
            f"{named}{others} {'is' if len(self.declined) == 1 else 'are'} not kept: the registry takes "
            f"{ADAPTER_CONFIG}, {ADAPTER_WEIGHTS} and {README} at the root of the repo."
        )


def choose(
    repo_id: str,
    sizes: Mapping[str, int],
    waiting: Collection[str] = (),
    *,
    uses_lfs: bool = False,
    may_insist_on_xet: bool = False,
) -> Chosen:
    """Choose among the files that a client is about to send, by name and size; ``waiting``: what was sent before.

    ``uses_lfs``: the client is known to send files by LFS when instructed to; ``may_insist_on_xet``: it may not, and
        would hash all of them before it fails without a reason.

    Raises:
        UsageError: the weights have to go by LFS, and this client may insist on Xet.
        InvalidAdapterError: ``pickle``, or ``missing_file``: nothing of what it sends is an adapter that can be taken,
            though it looks like weights.
        UnavailableError: ``too_large``.
    """
    taken = frozenset(name for name in sizes if name in TAKEN)
    if ADAPTER_WEIGHTS not in taken and ADAPTER_WEIGHTS not in waiting:
        _refuse_other_weights(repo_id, sizes)
    for name in sorted(taken):
        check_size(name, sizes[name])
    declined = tuple(sorted(name for name in sizes if name not in TAKEN))
    weights = sizes.get(ADAPTER_WEIGHTS, 0)
    large = weights > MOST_INLINE
    if large and may_insist_on_xet:
        raise UsageError(
            f"{ADAPTER_WEIGHTS} has {weights} bytes: from {MOST_INLINE >> 20} MiB on weights go by LFS, and this "
            'client may insist on Xet, which is not served here. Run eval "$(registry env)" before Python starts, or '
            f"set HF_HUB_DISABLE_XET=1 and HF_HUB_USER_AGENT_ORIGIN={HUB_ORIGIN} as it does, or use `registry publish`."
        )
    return Chosen(
        taken, declined, by_lfs=large or (uses_lfs and weights >= LEAST_BY_LFS), warned=large and not uses_lfs
    )


def check_size(name: str, size: int) -> None:
    """Check the size of a file that is taken; raises `UnavailableError` (``too_large``)."""
    if size > TAKEN[name]:
        way = "`registry publish` has no such limit" if name == ADAPTER_WEIGHTS else "make it smaller"
        sentence = f"{name} has {size} bytes, and a push takes at most {TAKEN[name]} of it: {way}."
        raise UnavailableError(sentence, code="too_large")


def _refuse_other_weights(repo_id: str, names: Iterable[str]) -> None:
    found = frozenset(names)
    if _PICKLED in found:
        raise InvalidAdapterError(
            f"{_PICKLED} is a pickle, which is never read: save the adapter with safetensors, as "
            f"save_pretrained(..., safe_serialization=True) does, and push {ADAPTER_WEIGHTS}.",
            code="pickle",
        )
    if whole := next((name for name in _WHOLE_MODELS if name in found), None):
        raise InvalidAdapterError(
            f"{whole} is a whole model, and a push takes adapters: publish the folder with "
            f"`registry publish --full DIR {_path_of(repo_id)}`.",
            code="missing_file",
        )
    folders = sorted(
        name.rpartition("/")[0]
        for name in found
        if name.endswith(f"/{ADAPTER_WEIGHTS}") and not name.startswith(("checkpoint-", "last-checkpoint/"))
    )
    if folders and not found & set(PAIR):
        raise InvalidAdapterError(
            f"The adapter is in the folder {folders[0]}, and a repo has one adapter at its root: push what is in "
            f"{folders[0]} by itself.",
            code="missing_file",
        )


def _path_of(repo_id: str) -> str:
    base, _, names = repo_id.partition("/")
    return "/".join((base, *names.split(".")))


def place_of(deployment: Deployment, repo_id: str) -> Path:
    """The path of a repo id, if this principal may publish to it.

    Raises:
        UsageError: the id names no path, or a base model.
        NotAllowedError: it may not publish to that path.
        NotFoundError: the parent path does not exist.
        ConflictError: ``renamed``, the path is an old name.
    """
    path = Path.of_repo_id(repo_id)
    if path.is_base:
        raise UsageError(
            f"{repo_id} is the base model {path.base}: a push goes to a repo under it, such as {path.base}/NAME. Base "
            "models are added with `registry base add`."
        )
    require_publishing(deployment, path)
    with deployment.read() as session:
        old_names.check_current(session, path)
        _check_above(session, path)
    return path


def pending_commit(session: Session, principal: Principal, repo_id: str) -> str | None:
    """What stands for the commit of a repo that has no revision yet; None: this principal has begun none."""
    try:
        path = Path.of_repo_id(repo_id)
    except UsageError:
        return None
    rows = uploads.pushed_of(session, path, principal)
    said = [f"{name} {sha256_digest(row.data)}" for name, row in sorted(rows.items())]
    return hashlib.sha1("\n".join(said).encode(), usedforsecurity=False).hexdigest() if rows else None


def begin(deployment: Deployment, path: Path) -> bool:
    """Begin a repo that is empty until a revision is published; False: it exists already, with revisions or not."""
    me = deployment.principal

    def work(session: Session) -> bool:
        if revisions.is_there(session, path) or uploads.pushed_of(session, path, me):
            return False
        uploads.put_pushed(session, path, me, [PushedRow(uploads.REPO, b"", 0)])
        return True

    return deployment.change(work)


def waiting_for(deployment: Deployment, path: Path, *, superseded: tuple[str, ...]) -> frozenset[str]:
    """The names of files that wait at a path, without those that a push which begins now brings anew."""
    me = deployment.principal
    with deployment.read() as session:
        rows = uploads.pushed_of(session, path, me)
    old = [row for name, row in rows.items() if name in superseded]
    if old:
        deployment.change(lambda session: uploads.remove_pushed(session, path, me, [row.name for row in old]))
        drop_taken(deployment, {row.upload.digest: row.upload.id for row in old if row.upload is not None})
    return frozenset(rows).difference(superseded, [uploads.REPO])


def _check_above(session: Session, path: Path) -> None:
    above = path.parent
    assert above is not None, "a base model was refused before"
    try:
        if above.is_base:
            bases.get(session, above.base)
        else:
            revisions.pinnable(session, path, limit=1)
    except NotFoundError as missing:
        raise _nothing_above(above) from missing


def _nothing_above(above: Path) -> RegistryError:
    how = "add it with `registry base add`" if above.is_base else "publish it"
    return NotFoundError(f"{above} does not exist, and a repo lies under what it was trained on: {how} first.")
