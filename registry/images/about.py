"""What a LoRA file says of itself, and what other programs keep beside it: title, trigger words, licence, base model.

The metadata in its header is the trainer's (``ss_*`` of kohya's scripts, ``training_info`` of ai-toolkit) or follows
the ModelSpec (``modelspec.*``). Beside the file lie what A1111 (``NAME.json``) and downloaders from Civitai
(``NAME.civitai.info``, ``NAME.metadata.json``) have written. All of it is a stranger's text: read within bounds, shown
as one line of plain text, and without the folders of the machine that wrote it. None of it is evidence: it becomes
annotations and a card. Sources: sd-scripts ``train_network.py``, ModelSpec 1.0.1, Civitai's API of model versions.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.errors import InvalidAdapterError, RegistryError
from registry.files.strict_json import parse

MOST_DOCUMENT: Final = 4 << 20
"""Bytes of a document beside a LoRA file, or of one in its metadata, that are read."""
_LINE: Final = 200  # characters of what is a name
_TEXT: Final = 2000  # of what is written in sentences
_WORDS: Final = 32
_TOP: Final = 20

Document = Mapping[str, Any]

_UNSEEN: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]+"
)
_TAG: Final = re.compile(r"<[^<>]{0,1000}>")
_ROOTED: Final = re.compile(
    r"(?:(?<![A-Za-z])[A-Za-z]:[\\/](?!/)|\\\\|(?<![\w/.:])(?:~|/(?:home|Users|root|mnt|media|Volumes))/)[^\n\"'<>|*?]*"
)
_ABSOLUTE: Final = re.compile(r"(?<![\w/.:])(?:/[^\s/\"'<>|]+){2,}/?")


def plain(value: object, most: int = _TEXT) -> str:
    """A stranger's text as one line that can be shown: no markup, no characters that can't be seen, no folders."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value)[: 8 * most]
    text = _TAG.sub(" ", html.unescape(_TAG.sub(" ", text)))
    text = _ABSOLUTE.sub(lambda found: last_part(found[0]), _ROOTED.sub(lambda found: last_part(found[0]), text))
    text = " ".join(_UNSEEN.sub(" ", text).split())
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."


def last_part(text: str) -> str:
    """The last part of a path of any system, which says what a file is called and not where it lies."""
    return re.split(r"[\\/]+", text.rstrip("\\/ "))[-1]


def _name(value: object) -> str:
    """What something is called; of a path its last part. ORG/NAME of a Hub stays."""
    text = str(value).strip() if isinstance(value, str) else ""
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        return plain(text, _LINE)
    return plain(last_part(plain(text)), _LINE)


@dataclass(frozen=True)
class About:
    """What is said of a LoRA file; an empty text: nothing.

    Attributes:
        step: optimiser steps that it was trained for.
        epoch: passes over the data set.
        trigger: words that a prompt needs.
        tags: what it is filed under.
        words: of the captions that it was trained on, the most frequent ones.
        base: the base model, as whoever wrote it calls that.
        architecture: the family of it.
        strength: that its author prefers.
        network: rank and alpha as the trainer was asked for them.
    """

    title: str = ""
    author: str = ""
    description: str = ""
    notes: str = ""
    licence: str = ""
    trigger: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    base: str = ""
    architecture: str = ""
    resolution: str = ""
    network: str = ""
    strength: str = ""
    usage: str = ""
    trainer: str = ""
    step: int | None = None
    epoch: int | None = None

    @property
    def base_named(self) -> str:
        """The base model that it names, as a clause of a sentence; empty: none."""
        parts = dict.fromkeys(part for part in (self.base, self.architecture) if part)
        return ", ".join(parts)

    def annotations(self) -> dict[str, str]:
        """As annotations of a revision."""
        found = {
            "title": self.title,
            "author": self.author,
            "description": self.description,
            "notes": self.notes,
            "license": self.licence,
            "trigger_words": ", ".join(self.trigger),
            "tags": ", ".join(self.tags),
            "caption_words": ", ".join(self.words),
            "trained_for": self.base,
            "architecture": self.architecture,
            "resolution": self.resolution,
            "network": self.network,
            "preferred_weight": self.strength,
            "usage_hint": self.usage,
            "trainer": self.trainer,
            "step": "" if self.step is None else str(self.step),
            "epoch": "" if self.epoch is None else str(self.epoch),
        }
        return {key: text for key, text in found.items() if text}

    def card(self) -> str:
        """A README.md; empty: it would hold nothing."""
        front = {
            "license": self.licence if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.licence) else "",
            "tags": list(self.tags),
            "instance_prompt": ", ".join(self.trigger),
        }
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items() if value]
        parts = ["\n".join(("---", *lines, "---"))] if lines else []
        if self.title:
            parts.append(f"# {escaped(self.title)}")
        parts += [escaped(text) for text in (self.description, self.usage, self.notes) if text]
        if self.trigger:
            parts.append(f"Trigger words: {escaped(', '.join(self.trigger))}")
        told = {
            "Author": self.author, "Licence": self.licence, "Trained for": self.base_named,
            "Preferred weight": self.strength,
        }  # fmt: skip
        rows = [f"- {name}: {escaped(text)}" for name, text in told.items() if text]
        if not (lines or self.title or self.description or self.usage or self.notes or self.author):
            return ""
        return "\n\n".join((*parts, "\n".join(rows)) if rows else parts) + "\n"


def escaped(text: str) -> str:
    """A line of plain text as Markdown that reads the same."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$&-])", r"\\\1", text)


def about_lora(metadata: Mapping[str, str], documents: Iterable[Document] = ()) -> About:
    """What is said of a LoRA file.

    Args:
        metadata: of its header.
        documents: what lies beside it, what its user wrote first: that counts before the rest.
    """
    given = [*map(_of_document, documents), _of_spec(metadata), _of_trainer(metadata)]
    found: dict[str, Any] = {}
    for one in given:
        for key, value in one.items():
            if value not in ("", (), None):
                found.setdefault(key, value)
    return About(**found)


def _of_document(document: Document) -> dict[str, Any]:
    """A document beside a file: A1111's, Civitai's of a version, or one that holds Civitai's."""
    civitai = document.get("civitai")
    version = civitai if isinstance(civitai, dict) else document
    model, creator = _document(version.get("model")), _document(version.get("creator"))
    weight = document.get("preferred weight")
    tips = _document(document.get("usage_tips"))
    name = " ".join(part for part in (plain(model.get("name"), _LINE), plain(version.get("name"), _LINE)) if part)
    return {
        "title": plain(document.get("model_name"), _LINE) or (name if model else ""),
        "author": plain(creator.get("username"), _LINE),
        "description": plain(document.get("description")) or plain(version.get("description")),
        "notes": plain(document.get("notes")),
        "licence": plain(document.get("license"), _LINE),
        "trigger": _listed(document.get("activation text")) or _listed(version.get("trainedWords")),
        "tags": _listed(document.get("tags")) or _listed(model.get("tags")),
        "base": _name(document.get("base_model"))
        or _name(version.get("baseModel"))
        or _name(document.get("sd version")),
        "strength": _number(weight) or _number(tips.get("strength")),
        "usage": plain(document.get("negative text")) and f"negative prompt: {plain(document.get('negative text'))}",
    }


def _of_spec(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The ModelSpec in a header."""

    def said(key: str, most: int = _LINE) -> str:
        return plain(metadata.get(f"modelspec.{key}"), most)

    return {
        "title": said("title"),
        "author": said("author"),
        "description": said("description", _TEXT),
        "licence": said("license"),
        "trigger": _listed(metadata.get("modelspec.trigger_phrase")),
        "tags": _listed(metadata.get("modelspec.tags")),
        "architecture": _name(metadata.get("modelspec.architecture", "").removesuffix("/lora")),
        "resolution": said("resolution"),
        "usage": said("usage_hint", _TEXT),
    }


_BASES: Final = ("ss_sd_model_name", "ss_base_model_version", "base_model")


def _of_trainer(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a trainer wrote into a header."""
    info, software = _document(metadata.get("training_info")), _document(metadata.get("software"))
    rank, alpha = plain(metadata.get("ss_network_dim"), 20), plain(metadata.get("ss_network_alpha"), 20)
    named = dict.fromkeys(name for key in _BASES if (name := _name(metadata.get(key))) and name != "None")
    return {
        "title": _name(metadata.get("ss_output_name")) or _name(metadata.get("name")),
        "notes": "" if metadata.get("ss_training_comment") == "None" else plain(metadata.get("ss_training_comment")),
        "words": _top_words(metadata.get("ss_tag_frequency")),
        "base": ", ".join(named),
        "resolution": plain(metadata.get("ss_resolution"), _LINE).replace("None", "").strip("()").replace(", ", "x"),
        "network": " ".join(part for part in (rank and f"rank {rank}", alpha and f"alpha {alpha}") if part),
        "trainer": _trainer(metadata, software),
        "step": _count(info.get("step")) or _count(metadata.get("ss_steps")),
        "epoch": _count(info.get("epoch")) or _count(metadata.get("ss_epoch")),
    }


def _trainer(metadata: Mapping[str, str], software: Document) -> str:
    name = plain(software.get("name"), _LINE)
    if name:
        return name
    if any(key.startswith("ot_") for key in metadata):
        return "OneTrainer"
    return "sd-scripts" if "ss_network_module" in metadata else ""


def _document(text: object) -> Document:
    """A JSON object in a text; an empty one, if it is none."""
    if isinstance(text, dict):
        return text
    if not isinstance(text, str) or not text.startswith("{"):
        return {}
    return read_document(text.encode("utf-8", "replace"))


def read_document(data: bytes) -> Document:
    """A document beside a LoRA file, or in its metadata; an empty one, if it is no JSON object within bounds."""
    try:
        found = parse(
            data.removeprefix(b"\xef\xbb\xbf"), what="It", limit=MOST_DOCUMENT, error=InvalidAdapterError,
            code="bad_config",
        )  # fmt: skip
    except RegistryError:
        return {}
    return found if isinstance(found, dict) else {}


def _top_words(text: object) -> tuple[str, ...]:
    """Of captions, counted by the folder of a data set, the most frequent words."""
    counts: Counter[str] = Counter()
    for folder in _document(text).values():
        for word, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 1 << 53:
                counts[plain(word, 64)] += count
    ranked = sorted((-count, word) for word, count in counts.items() if word)
    return tuple(word for _, word in ranked[:_TOP])


def _listed(value: object) -> tuple[str, ...]:
    """Words, given as a list or as one text with commas."""
    given = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    found = dict.fromkeys(word for one in given[: 8 * _WORDS] for word in _split(one))
    return tuple(found)[:_WORDS]


def _split(value: object) -> Iterator[str]:
    for part in value[: 8 * _TEXT].split(",") if isinstance(value, str) else ():
        if word := plain(part, 64):
            yield word


def _number(value: object) -> str:
    """A finite number that is not 0, which is what programs write that were told none."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return ""
    return f"{number:g}" if math.isfinite(number) and number else ""


def _count(value: object) -> int | None:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) and int(text) else None
