"""``trainable_token_indices``: rows of an embedding, trained alone. The tensor that is called delta is their value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import TokenRows, Twin
from registry.tensors.checkpoint.field_rules import fault
from registry.tensors.checkpoint.fit import check_kept, resolve
from registry.tensors.checkpoint.variants.draft import Draft, refuse_tensor
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import Target, TargetKind

_MAX_MODULES: Final = 64
ROWS: Final = "token_adapter.trainable_tokens_delta"

Tokens = tuple[int, ...]


def token_indices(field: str, value: Any) -> Tokens | dict[str, Tokens]:
    """A list for the input embedding, or a map from modules to lists; null is empty."""
    if value is None:
        return ()
    if isinstance(value, dict):
        if len(value) > _MAX_MODULES or "" in value:
            raise fault(field, value, f"expected a map of at most {_MAX_MODULES} module names.")
        return {name: _tokens(f"{field}[{shown(name)}]", item) for name, item in value.items()}
    return _tokens(field, value)


def _tokens(field: str, value: Any) -> Tokens:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise fault(field, value, "expected a list of token numbers.")
    if len(set(value)) != len(value):
        raise fault(field, value, "a token is named twice, so its row is not known. Name each once.", "bad_token_index")
    return tuple(value)


def fold(draft: Draft) -> None:
    """The rows of all embeddings."""
    asked = draft.config.values.get("trainable_token_indices") or ()
    for name in list(draft.having(ROWS)):
        target = resolve(name, draft.table)
        entry = draft.parts[name][ROWS]
        tokens = _asked_of(name, asked, entry)
        check_kept(name, target)
        _check(target, tokens, entry)
        if any(module == target.module for module in draft.adapted):
            raise InvalidAdapterError(
                f"The module {shown(name)} has a LoRA pair and trained token rows, which PEFT can't load together. "
                "Save the adapter again with one of them.",
                code="bad_config",
            )
        draft.take(name, ROWS)
        if target.module in draft.tokens:
            refuse_tensor(entry, "names a module that another tensor names too. Keep one of them.", "unexpected_tensor")
        draft.tokens[target.module] = TokenRows(entry, target, tokens, tied=False)
    _tie(draft)
    _lay_over_apart(draft)
    _tell_of_biases(draft)
    _check_all_there(draft, asked)


def _asked_of(name: str, asked: Tokens | Mapping[str, Tokens], entry: TensorEntry) -> Tokens:
    """The tokens of a module; a name of the map means every module whose path ends with it."""
    if not isinstance(asked, Mapping):
        if not asked:
            refuse_tensor(
                entry,
                "holds trained token rows, but adapter_config.json sets no trainable_token_indices: their place is "
                "unknown.",
                "unexpected_tensor",
            )
        return asked
    found = {tokens for key, tokens in asked.items() if name.endswith(key)}
    if len(found) != 1:
        refuse_tensor(
            entry,
            f"holds trained token rows, and trainable_token_indices in adapter_config.json gives {len(found)} lists of "
            f"tokens for {shown(name)}; it has to be one.",
            "unexpected_tensor",
        )
    return found.pop()


def _check(target: Target, tokens: Tokens, entry: TensorEntry) -> None:
    vocabulary = target.shape[0]
    outside = [token for token in tokens if not 0 <= token < vocabulary]
    if outside:
        raise InvalidAdapterError(
            f"adapter_config.json: trainable_token_indices names the token {outside[0]}, but {shown(target.module)} of "
            f"the base model has the tokens 0 to {vocabulary - 1}. Publish it under the base model that it was trained "
            "on.",
            code="bad_token_index",
        )
    if target.kind not in (TargetKind.EMBEDDING, TargetKind.LINEAR) or len(target.shape) != 2:
        refuse_tensor(entry, f"holds rows of a module of kind {target.kind}, which has none.", "unsupported_layout")
    if entry.shape != (len(tokens), target.shape[1]):
        refuse_tensor(
            entry,
            f"has shape {entry.shape}, expected {(len(tokens), target.shape[1])}: trainable_token_indices names "
            f"{len(tokens)} tokens, and {shown(target.module)} has {target.shape[1]} features.",
            "shape_mismatch",
        )


def _tie(draft: Draft) -> None:
    """Rows of an input embedding are rows of all modules that share its weight, unless these have rows of their own.

    PEFT ties the head's rows to those of the embedding; a file may hold them for both sides.
    """
    for module, rows in list(draft.tokens.items()):
        target = rows.target
        if target.kind is not TargetKind.EMBEDDING or target.tie is None:
            continue
        others = [other for other in draft.table.tie_group(module) if other != module and other in draft.tokens]
        same = [other for other in others if draft.tokens[other].tokens == rows.tokens]
        if same != others:
            continue
        for other in same:
            draft.twins.append(Twin(rows.entry, draft.tokens.pop(other).entry))
        draft.tokens[module] = TokenRows(rows.entry, target, rows.tokens, tied=True)
        return


def _lay_over_apart(draft: Draft) -> None:
    """PEFT goes by the configuration: rows of an embedding also go over a head that only the files keep apart."""
    for module, holder in draft.table.apart.items():
        for rows in list(draft.tokens.values()):
            group = draft.table.tie_group(rows.target.module)
            if rows.target.kind is TargetKind.EMBEDDING and holder in group and module not in draft.tokens:
                draft.tokens[module] = replace(rows, target=draft.table.targets[module], tied=False)


def _tell_of_biases(draft: Draft) -> None:
    """PEFT computes a head that has rows as a product alone."""
    for rows in draft.tokens.values():
        modules = draft.table.tie_group(rows.target.module) if rows.tied else (rows.target.module,)
        for module in modules:
            kind = draft.table.targets[module].kind
            if kind is TargetKind.LINEAR and "bias" in draft.table.parameters_of(module):
                draft.notices.append(
                    f"{shown(module)} has trained token rows and a bias, and PEFT leaves the bias out while such an "
                    "adapter is not merged (seen in 0.21.2): it was trained without the bias, but is served with it."
                )


def _check_all_there(draft: Draft, asked: Tokens | Mapping[str, Tokens]) -> None:
    """Every name has to have its rows; a head that follows its embedding has none of its own."""
    if not asked:
        return
    followed = any(rows.tied for rows in draft.tokens.values())
    wanted = list(asked) if isinstance(asked, Mapping) else [""]
    missing = [key for key in wanted if not any(module.endswith(key) for module in draft.tokens)]
    if missing and not (followed and len(missing) < len(wanted)):
        raise InvalidAdapterError(
            f"adapter_config.json: trainable_token_indices is set{f' for {shown(missing[0])}' if missing[0] else ''}, "
            f"but the adapter has no {ROWS} for it. Save the adapter again.",
            code="incomplete_adapter",
        )


VARIANT: Final = Variant("token rows", fields={"trainable_token_indices": token_indices}, tails={ROWS: ROWS}, fold=fold)
