"""Names and references: the grammar of everything a user types.

``PATH`` (newest revision), ``PATH@3`` (number), ``PATH@prod`` (tag), ``PATH@sha256:...`` (unique prefix of at
least 8 hex digits). A path is ``BASE/name/name``; the base model alone is a reference too, with an empty lineage.
Where weights are fetched, ``PATH@3:0.8`` gives the last link a weight; a revision itself has none.
A path maps one to one to a Hub repo id: ``BASE/a/b/c`` is ``BASE/a.b.c`` and the base itself ``BASE/_``.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from registry.errors import UsageError

RESERVED: Final = frozenset(
    ["api", "datasets", "spaces", "models", "kernels", "buckets", "hf", "resolve", "tree", "revision", "refs", "git"]
)
MAX_BASE: Final = 96
MAX_ADAPTER: Final = 64
MAX_BELOW_BASE: Final = 96
MAX_TAG: Final = 64
MAIN: Final = "main"
"""What the Hub views call the newest revision."""

_NEWEST_ELSEWHERE: Final = frozenset(["latest", "HEAD", MAIN])
_ELSEWHERE: Final = {
    re.compile("hf:"): "it names a repository of a Hub, but a path of the registry is expected, BASE/name/name",
    re.compile("models:/"): "it is how MLflow writes a version; here that is PATH@3, or PATH@prod of a tag",
    re.compile(r"[A-Za-z0-9+.-]+://"): (
        "it is an address, but a path of the registry is expected, BASE/name/name; --url names the registry, and `base "
        "add` and `publish` take hf:ORG/REPO"
    ),
}
"""How paths are written elsewhere, by how they begin."""
_NOT_OF_NAMES = re.compile(r"[^a-z0-9_]+")
_BASE = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_ADAPTER = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")
_TAG = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_VIEW_NUMBER = re.compile(r"r([1-9][0-9]{0,17})")
_ON_THE_HUB = re.compile(r"hf:([A-Za-z0-9_./-]+)@[0-9a-f]+")  # " at ENDPOINT" after it: a repo of another Hub
_DIGEST_PREFIX = re.compile(r"sha256:[0-9a-f]{8,64}")
_GLOB = re.compile(r"[a-z0-9_*/-]+")
_WEIGHT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def _bad(what: str, text: str, rule: str) -> UsageError:
    return UsageError(f"{what} {text!r} is not allowed: {rule}.", code="bad_name")


def _expected(name: str, grammar: re.Pattern[str], most: int, characters: str) -> str:
    """The rule that a name breaks which ``grammar`` does not match, or which is longer than ``most``."""
    if len(name) <= most and grammar.fullmatch(name.lower()):
        return f"capital letters are not used, write {name.lower()!r}"
    rule = f"at most {most} of a-z 0-9 {characters} are expected, beginning and ending with a letter or digit"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    near = "-".join(word for word in _NOT_OF_NAMES.split(plain) if word)[:most].strip("-_.")
    return f"{rule}, such as {near!r}" if near and grammar.fullmatch(near) and "--" not in near else rule


def check_base_name(name: str) -> str:
    """Return ``name`` if it can name a base model.

    Raises:
        UsageError: ``bad_name``, with the rule that it breaks.
    """
    if len(name) > MAX_BASE or not _BASE.fullmatch(name):
        raise _bad("Base model name", name, _expected(name, _BASE, MAX_BASE, ". _ -"))
    if ".." in name or "--" in name or name.endswith(".git"):
        raise _bad("Base model name", name, "it may not hold '..' or '--' or end in '.git'")
    if name in RESERVED:
        raise _bad("Base model name", name, "the word is reserved")
    return name


def check_adapter_name(name: str) -> str:
    """Return ``name`` if it can be one segment of a path below the base model.

    Raises:
        UsageError: ``bad_name``, with the rule that it breaks.
    """
    if len(name) > MAX_ADAPTER or not _ADAPTER.fullmatch(name):
        raise _bad("Adapter name", name, _expected(name, _ADAPTER, MAX_ADAPTER, "_ -"))
    if "--" in name:
        raise _bad("Adapter name", name, "it may not hold '--'")
    if name in RESERVED:
        raise _bad("Adapter name", name, "the word is reserved")
    return name


def check_tag(tag: str) -> str:
    """Return ``tag`` if it can name a revision: it must not look like a number, a commit or ``main``.

    Raises:
        UsageError: ``bad_name``, with the rule that it breaks.
    """
    if "/" in tag:
        raise _bad("Tag", tag, "a tag is one word without '/', and comes after the path or the reference")
    if tag.startswith("@"):
        raise _bad("Tag", tag, "the '@' stands between a path and its tag, leave it out here")
    if "@" in tag:
        raise _bad("Tag", tag, f"a tag has no '@'; write the revision behind the path, PATH@{tag.split('@')[1]}")
    if "," in tag:
        raise _bad("Tag", tag, "it is one word without ',', and several are given one by one")
    if len(tag) > MAX_TAG or not _TAG.fullmatch(tag):
        raise _bad("Tag", tag, _expected(tag, _TAG, MAX_TAG, ". _ -"))
    if ".." in tag:
        raise _bad("Tag", tag, "it may not hold '..'")
    if tag == MAIN or tag.isdigit() or re.fullmatch(r"r[0-9]+|[0-9a-f]{40}", tag):
        form = f"; write 'v{tag.removeprefix('r')}'" if len(tag) < MAX_TAG // 2 and tag != MAIN else ""
        raise _bad("Tag", tag, f"'main', numbers, 'r' with a number and 40 hex digits are reserved{form}")
    return tag


def number_in_view(name: str) -> int | None:
    """The number of a revision as the Hub views spell it, such as ``r3``; None: another name."""
    found = _VIEW_NUMBER.fullmatch(name)
    return None if found is None else int(found[1])


@dataclass(frozen=True, order=True)
class Path:
    """Where an adapter stands in the tree: its base model and the names down to it."""

    base: str
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Path:
        """Read ``BASE/name/name``.

        Raises:
            UsageError: ``bad_name`` when a segment or the length is outside the grammar.
        """
        try:
            return cls._read(text)
        except UsageError:
            if (rule := _rule_of_other_forms(text)) is None:
                raise
            raise _bad("Path", text, rule) from None

    @classmethod
    def _read(cls, text: str) -> Path:
        """Read a path, without advice about other forms."""
        base, *names = text.split("/")
        check_base_name(base)
        for name in names:
            check_adapter_name(name)
        below = "/".join(names)
        if len(below) > MAX_BELOW_BASE:
            raise _bad("Path", text, f"the part below the base model may have {MAX_BELOW_BASE} characters at most")
        return cls(base, tuple(names))

    @classmethod
    def of_repo_id(cls, text: str) -> Path:
        """The path that a Hub repo id stands for: ``BASE/a.b.c``, or ``BASE/_`` for the base model.

        Raises:
            UsageError: ``bad_name`` when it stands for none.
        """
        base, slash, below = text.partition("/")
        if not slash or not below or "/" in below:
            raise _bad("Repo id", text, "BASE/name.name is expected, or BASE/_ for the base model itself")
        return cls._read(base if below == "_" else f"{base}/{below.replace('.', '/')}")

    @property
    def is_base(self) -> bool:
        """Whether this names the base model itself."""
        return not self.names

    @property
    def parent(self) -> Path | None:
        """The path above, or None for the base model."""
        return None if self.is_base else Path(self.base, self.names[:-1])

    @property
    def name(self) -> str:
        """The last segment."""
        return self.names[-1] if self.names else self.base

    @property
    def repo_id(self) -> str:
        """The Hub repo id that stands for this path."""
        return f"{self.base}/{'.'.join(self.names) or '_'}"

    def __str__(self) -> str:
        return "/".join((self.base, *self.names))


def _rule_of_other_forms(text: str) -> str | None:
    """The rule for a text that is written as paths are elsewhere, with what it stands for here; None: another text."""
    segments = text.split("/")
    if rule := next((rule for start, rule in _ELSEWHERE.items() if start.match(text)), None):
        return rule
    if text in _NEWEST_ELSEWHERE:
        return "a path is expected, which alone stands for its newest revision"
    if not {".", "..", "~"}.isdisjoint(segments):
        return "it is a path of files, but one of the registry is expected, BASE/name/name"
    if "" in segments and (kept := _path_of("/".join(filter(None, segments)))):
        return f"one '/' stands between two names, and none at the ends; write {kept}"
    return _rule_of_weights(text) or _rule_of_signs(text) or _rule_of_repo_ids(text)


def _rule_of_weights(text: str) -> str | None:
    """The rule for a path and a weight: whole numbers after a path are read as revisions."""
    before, _, weight = text.rpartition(":")
    if not _WEIGHT.fullmatch(weight) or (path := _path_of(before)) is None:
        return None
    if path.is_base:
        return f"a base model adds nothing that a weight could multiply; write {path}"
    if weight.isdigit():
        return None
    return f"a weight follows a revision, as in {path}@3:{weight}, and `fetch` takes --weight {weight}"


def _rule_of_signs(text: str) -> str | None:
    """The rule for a path and what follows a sign."""
    for sign in "@:#~^":
        before, found, selector = text.partition(sign)
        if found and (selector or sign == "^") and (path := _path_of(before)) and not path.is_base:
            if sign == "@":
                return f"a path without a revision is expected; write {path}"
            if sign in "~^":
                return f"revisions are numbered, and {path}@3 is written for the third"
            if selector in _NEWEST_ELSEWHERE:
                return f"no name has a {sign!r}; {path} alone is the newest revision"
            return f"no name has a {sign!r}; a revision is written {path}@{selector}, and the path alone {path}"
    return None


def _rule_of_repo_ids(text: str) -> str | None:
    """The rule for the repo id of a path, as the Hub views have them."""
    try:
        path = Path.of_repo_id(text)
    except UsageError:
        return None
    if path.is_base:
        return f"as a repo id of the Hub views it stands for the base model {path}: write that"
    return f"adapter names have no '.', and as a repo id of the Hub views it stands for {path}: write that"


def _path_of(text: str) -> Path | None:
    try:
        return Path._read(text)
    except UsageError:
        return None


@dataclass(frozen=True)
class Reference:
    """A text that names a revision; at most one of the selectors is set, none means the newest."""

    path: Path
    number: int | None = None
    tag: str | None = None
    digest_prefix: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            UsageError: ``bad_name`` when the text is outside the grammar.
        """
        path_text, at, selector = text.partition("@")
        if at and not path_text:
            raise _bad("Reference", text, f"a path stands before '@', as in BASE/name{text}")
        path = Path.parse(path_text)
        if not at:
            return cls(path)
        if path.is_base:
            raise _bad(
                "Reference",
                text,
                f"a path begins with a base model, which has no revisions; write {path}, or BASE/{text} for an adapter",
            )
        if (plain := path_and_weight(text)[0]) != text:
            raise _bad("Reference", text, f"a weight is of what is fetched, and no revision has one; write {plain}")
        if _NUMBER.fullmatch(selector):
            return cls(path, number=int(selector))
        if selector.startswith("sha256:"):
            if not _DIGEST_PREFIX.fullmatch(selector):
                raise _bad("Reference", text, "'sha256:' needs 8 to 64 lowercase hex digits")
            return cls(path, digest_prefix=selector)
        if (rule := _rule_of_selector(path, selector)) is not None:
            raise _bad("Reference", text, rule)
        return cls(path, tag=check_tag(selector))

    def __str__(self) -> str:
        selector = self.number if self.number is not None else self.tag or self.digest_prefix
        return str(self.path) if selector is None else f"{self.path}@{selector}"


@dataclass(frozen=True)
class NamePattern:
    """``BASE/...*@TAG``: this tag of every adapter whose path matches; ``*`` is any text, also over several names."""

    base: str
    path: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """Read a pattern.

        Raises:
            UsageError: ``bad_name`` when the text is outside the grammar.
        """
        path, at, tag = text.partition("@")
        base, slash, below = path.partition("/")
        rule = "BASE/*@TAG is expected: the base model as it is, a path in which * stands for any text, and one tag"
        if not (slash and at) or "*" in base or "*" in tag or not _GLOB.fullmatch(below):
            raise _bad("Pattern", text, rule)
        return cls(check_base_name(base), path, check_tag(tag))


def path_and_weight(text: str) -> tuple[str, str | None]:
    """A reference that may end in a weight, without it, and the text of the weight; None: it has none."""
    before, colon, weight = text.rpartition(":")
    selector = before.partition("@")[2]
    if not colon or selector in ("", "sha256") or not _WEIGHT.fullmatch(weight):
        return text, None
    return before, weight


def _rule_of_selector(path: Path, selector: str) -> str | None:  # noqa: PLR0911 - a rule for each
    """The rule for what follows '@' as it does elsewhere, with what it stands for here; None: another text."""
    if not selector:
        return f"a number or a tag follows '@'; {path} alone is the newest revision"
    if selector == "HEAD":
        return f"the newest revision is {path} alone; write that"
    if selector == MAIN:
        return f"{MAIN} is what the Hub views call the newest revision; write {path}"
    if (number := number_in_view(selector)) is not None:
        return f"{selector} is what the Hub views call revision {number}; write {path}@{number}"
    if selector.removeprefix("-").isdigit():
        return f"revisions are numbered 1, 2, 3 and so on, and {path} alone is the newest"
    if "/" in selector:
        return "only the last name of a path has a revision, because that says which are above it"
    return None


def meant_alone(text: str, path: Path) -> str:
    """A clause with what a number or a tag given alone stands for, of the path that was meant; empty: it is neither."""
    if path.is_base or text == path.base or not _TAG.fullmatch(text):
        return ""
    return f"; write {path if text in _NEWEST_ELSEWHERE else f'{path}@{text}'}"


def hub_name(base: str, source: str | None) -> str:
    """What cards call a base model: its repo on the Hub if its source is that, else its repo id in the views."""
    return on_the_hub(source) or Path(base).repo_id


def on_the_hub(source: str | None) -> str | None:
    """The repo on the Hub that a source is; None: a folder, or a repo of another Hub."""
    found = None if source is None else _ON_THE_HUB.fullmatch(source)
    return None if found is None else found[1]
