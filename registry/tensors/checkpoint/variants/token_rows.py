"""Rows of embeddings that were trained alone, and both sides of tied weights.

``trainable_token_indices`` names the rows; the tensor that is called delta is their value. With ``tie_word_embeddings``
two modules have one weight. A pair or a value on one side changes that side alone, and the two come apart when the path
is merged. With ``ensure_weight_tying`` PEFT trains one change for both and saves it twice, as the pair of an embedding
and as that of a linear module, transposed: it is stored once, on the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import TokenRows, Twin
from registry.tensors.checkpoint.field_rules import boolean, fault
from registry.tensors.checkpoint.fit import check_kept, resolve
from registry.tensors.checkpoint.variants.draft import Draft, Variant, refuse_tensor
from registry.tensors.table.targets import Target, TargetKind

_TIED_BY_PEFT: Final = ("embed_tokens", "lm_head")
"""The leaf names that PEFT looks for if ``ensure_weight_tying`` is set (``EMBEDDING_LAYER_NAMES``)."""


def fold_ties(draft: Draft) -> None:
    """Bring what was trained as one into one, and report what comes apart."""
    groups = {draft.table.tie_group(module) for module, target in draft.table.targets.items() if target.tie is not None}
    for group in sorted(groups):
        if draft.config.values.get("ensure_weight_tying"):
            _tie_sides(draft, group)
        _tell_apart(draft, group)


def _tie_sides(draft: Draft, group: tuple[str, ...]) -> None:
    embeddings = [module for module in group if draft.table.targets[module].kind is TargetKind.EMBEDDING]
    for other in group:
        if embeddings and other not in embeddings:
            _tie_pairs(draft, embeddings[0], other)
            _tie_values(draft, embeddings[0], other)


def _tell_apart(draft: Draft, group: tuple[str, ...]) -> None:
    """A change that is not of all modules of a group: the merged model keeps a weight for each."""
    alone = sorted(
        {pair.target.module for pair in draft.pairs.values() if not pair.tied}.intersection(group)
        | {module for module in group if _is_alone(draft, module)}
    )
    if alone:
        others = ", ".join(shown(module) for module in group if module != alone[0])
        draft.notices.append(
            f"{shown(alone[0])} shares its weight with {others}, but this adapter does not change them in the same "
            "way: they are untied in a merged model, which sets tie_word_embeddings=false."
        )


def _is_alone(draft: Draft, module: str) -> bool:
    value, rows = draft.values.get(f"{module}.weight"), draft.tokens.get(module)
    return (value is not None and not value.tied) or (rows is not None and not rows.tied)


def _tie_pairs(draft: Draft, module: str, other: str) -> None:
    one, two = draft.pairs.get(module), draft.pairs.get(other)
    if one is None or two is None:
        _refuse_half(draft, module, other, one is not None, two is not None)
        return
    draft.implied.add(other)
    if one.magnitude is not None or two.magnitude is not None:
        return  # DoRA has a magnitude for each side, so the sides differ although the factors are one
    transposed = one.a.shape == two.b.shape[::-1] and one.b.shape == two.a.shape[::-1]
    if one.scaling != two.scaling or not transposed:
        raise InvalidAdapterError(
            f"adapter_config.json: ensure_weight_tying is true, but the pairs of {shown(module)} and {shown(other)} "
            f"differ: scaling {one.scaling:g} and {two.scaling:g}, A {one.a.shape} and {two.a.shape}. Save the adapter "
            "again, or set the field to false.",
            code="tied_partial",
        )
    draft.twins += [Twin(one.a, two.b, transposed=True), Twin(one.b, two.a, transposed=True)]
    draft.pairs[module] = replace(one, tied=True)
    del draft.pairs[other]


def _tie_values(draft: Draft, module: str, other: str) -> None:
    names = f"{module}.weight", f"{other}.weight"
    one, two = draft.values.get(names[0]), draft.values.get(names[1])
    if one is None or two is None:
        _refuse_half(draft, module, other, one is not None, two is not None)
        return
    draft.twins.append(Twin(one.entry, two.entry))
    draft.values[names[0]] = replace(one, tied=True)
    del draft.values[names[1]]


def _refuse_half(draft: Draft, module: str, other: str, has: bool, other_has: bool) -> None:
    """One side alone: with PEFT's names for embeddings the file is not whole, with others PEFT did not tie them."""
    if has is other_has:
        return
    there, missing = (module, other) if has else (other, module)
    if there.rpartition(".")[2] in _TIED_BY_PEFT:
        raise InvalidAdapterError(
            f"adapter_config.json: ensure_weight_tying is true, but the adapter has tensors for {shown(there)} and "
            f"none for {shown(missing)}, which shares its weight. Save the adapter again, or set the field to false.",
            code="tied_partial",
        )
    draft.notices.append(
        f"ensure_weight_tying is set, but PEFT ties only modules called {' and '.join(_TIED_BY_PEFT)}: the change of "
        f"{shown(there)} is not that of {shown(missing)}."
    )


TIES: Final = Variant("ties", fields={"ensure_weight_tying": boolean}, fold=fold_ties)


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


def fold_token_rows(draft: Draft) -> None:
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


TOKEN_ROWS: Final = Variant(
    "token rows", fields={"trainable_token_indices": token_indices}, tails={ROWS: ROWS}, fold=fold_token_rows
)
