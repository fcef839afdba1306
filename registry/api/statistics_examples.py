"""Examples of statistics, from factors and dense, for the description of the API."""

from __future__ import annotations

from typing import Any, Final

_FIGURES: Final[dict[str, Any]] = {
    "rank": 2,
    "energy": 5.0,
    "frobenius": 2.236,
    "spectral": 2.0,
    "stable_rank": 1.25,
    "effective_rank": 1.65,
    "rank90": 2,
    "rank95": 2,
    "rank99": 2,
    "relative_frobenius": 0.012,
    "relative_spectral": 0.011,
}
_MODULE: Final[dict[str, Any]] = {
    **_FIGURES,
    "module": "model.layers.0.self_attn.q_proj",
    "kind": "self_attn.q_proj",
    "depth": 0,
    "scaled": False,
    "replaced": False,
    "experts": [],
}
_GROUP: Final[dict[str, Any]] = {"name": "self_attn.q_proj", "modules": 1, "energy": 5.0, "share": 1.0}
DELTA: Final[dict[str, Any]] = {
    **_FIGURES,
    "modules": [_MODULE],
    "kinds": [_GROUP],
    "depths": [{**_GROUP, "name": "0"}],
    "energy_by_rank": [0.8, 1.0],
    "others": [],
}
_RATIOS: Final = {"link": 1, "least": 0.97, "mean": 1.002, "most": 1.04}
_MATRIX: Final[dict[str, Any]] = {
    **_FIGURES,
    "module": "model.layers.0.self_attn.q_proj",
    "expert": None,
    "kind": "self_attn.q_proj",
    "depth": 0,
    "added": False,
    "magnitudes": [_RATIOS],
    "cosines": [0.9995, 0.998, 0.41],
    "intruders": 1,
}
STATISTICS_EXAMPLES: Final[dict[str, Any]] = {
    "ExpertStatistics": {**_FIGURES, "expert": 0},
    "ModuleStatistics": _MODULE,
    "GroupStatistics": _GROUP,
    "OtherChange": {"name": "lm_head", "how": "replaced"},
    "DeltaStatistics": DELTA,
    "LinkStatistics": {"reference": "llama/support@3", "delta": DELTA},
    "Statistics": {
        "reference": "llama/support@3",
        "since": "llama",
        "links": [{"reference": "llama/support@3", "delta": DELTA}],
        "path": DELTA,
    },
    "MagnitudeRatios": _RATIOS,
    "DenseMatrix": _MATRIX,
    "DenseStatistics": {
        **_FIGURES,
        "reference": "llama/support@3",
        "since": "llama",
        "vectors": 10,
        "threshold": 0.5,
        "intruders": 1,
        "matrices": [_MATRIX],
        "missing": [],
    },
    "DenseStatisticsRequest": {"ref": "llama/support@3", "since": None},
}
