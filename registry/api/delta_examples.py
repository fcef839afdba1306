"""Examples of deltas beside each other, for the description of the API."""

from __future__ import annotations

from typing import Any, Final

_FIGURES: Final = {
    "frobenius_a": 2.5,
    "frobenius_b": 1.25,
    "cosine": -0.25,
    "energy_ratio": 0.8,
    "undone": 0.125,
    "row_overlap": 0.0625,
    "column_overlap": 0.09375,
}
_ANGLES: Final = {"row_angles": [1.25, 1.5], "column_angles": [1.0, 1.5]}
_EXPERT: Final = {**_FIGURES, **_ANGLES, "expert": 0}
_MODULE: Final = {
    **_FIGURES,
    **_ANGLES,
    "module": "model.layers.0.self_attn.q_proj",
    "kind": "self_attn.q_proj",
    "depth": 0,
    "scaled": False,
    "replaced": False,
    "experts": [],
}
_OTHER: Final = {"name": "lm_head", "a": "replaced", "b": None}
_SIDE: Final = {"reference": "llama/support@3", "since": "llama"}
_CHILD: Final = {
    "reference": "llama/support@3",
    "parent": "llama",
    "frobenius": 2.5,
    "scaled": False,
    "others": [{"name": "lm_head", "how": "replaced"}],
}

DELTA_EXAMPLES: Final[dict[str, Any]] = {
    "ExpertDifference": _EXPERT,
    "ModuleDifference": _MODULE,
    "GroupDifference": {**_FIGURES, "name": "self_attn.q_proj", "modules": 32},
    "OtherDifference": _OTHER,
    "ComparedDelta": _SIDE,
    "Deltas": {
        **_FIGURES,
        "a": _SIDE,
        "b": {"reference": "llama/support/french@1", "since": "llama/support@3"},
        "undone_of": "a",
        "modules": [_MODULE],
        "kinds": [{**_FIGURES, "name": "self_attn.q_proj", "modules": 1}],
        "depths": [{**_FIGURES, "name": "0", "modules": 1}],
        "others": [_OTHER],
    },
    "ChildDelta": _CHILD,
    "DeltaMatrix": {
        "path": "llama",
        "children": [_CHILD, {**_CHILD, "reference": "llama/legal@1", "frobenius": 1.25}],
        "cosine": [[1.0, -0.25], [-0.25, 1.0]],
        "energy_ratio": [[2.0, 0.8], [0.8, 2.0]],
    },
}
"""By the name of the schema."""
