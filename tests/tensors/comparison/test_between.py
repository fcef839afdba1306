"""On the line between two candidates: what is sure without the product of both is so with it."""

from __future__ import annotations

import numpy as np

from registry.tensors.comparison.verdict import lies_at_one, surely_at_one


def test_sure_without_the_product_is_sure_with_any() -> None:
    random = np.random.default_rng(1)
    sure = 0
    for _ in range(2000):
        one, other = (random.standard_normal(500) * 10 ** random.uniform(-3, 1) for _ in range(2))
        if random.random() < 0.5:
            other = one * random.uniform(-20, 20)  # as like each other as can be
        own, both, others = float(one @ one), float(one @ other), float(other @ other)
        if surely_at_one(own, others):
            sure += 1
            assert lies_at_one(own, both, others, len(one))
    assert sure > 500
    assert not surely_at_one(1.0, 40.0)  # 0.16 of the way, give or take as much
    assert not surely_at_one(0.0, 15.0)  # too little
    assert surely_at_one(0.0, 17.0)
