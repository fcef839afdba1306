"""Examples of dense statistics, for the description of the API."""

from __future__ import annotations

from typing import Any, Final

_FIGURES: Final[dict[str, Any]] = {
    "rank": 64,
    "energy": 6.25,
    "frobenius": 2.5,
    "spectral": 2.0,
    "stable_rank": 1.5625,
    "effective_rank": 2.1,
    "rank90": 2,
    "rank95": 3,
    "rank99": 5,
    "relative_frobenius": 0.014,
    "relative_spectral": 0.011,
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
DENSE_EXAMPLES: Final[dict[str, Any]] = {
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
"""By the name of the schema."""
