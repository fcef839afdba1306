"""Examples of the schemas of searching for a parent."""

from __future__ import annotations

from typing import Any, Final

PARENT_EXAMPLES: Final[dict[str, Any]] = {
    "NarrowRequest": {"base": "llama", "values": "AAAAAAAA8D8AAAAAAAAAQA==", "dtypes": ["BF16", None], "link": None},
    "WeightedLink": {"reference": "llama/legal@1", "weight": 0.5},
    "NearPath": {"reference": "llama/support@3", "distance": 0.0021},
    "PathsLeft": {
        "left": ["llama/support@3"],
        "near": [{"reference": "llama/support@3", "distance": 0.0021}, {"reference": "llama", "distance": 0.0124}],
        "searched": 412,
        "sum": [{"reference": "llama/support@3", "weight": 0.5}, {"reference": "llama/legal@1", "weight": 0.5}],
    },
}
