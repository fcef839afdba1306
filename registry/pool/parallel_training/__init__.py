"""Several adapters trained at once over one frozen parent: rows of one batch, a gradient and an optimizer each."""

from registry.pool.parallel_training.hooks import Step
from registry.pool.parallel_training.siblings import Siblings

__all__ = ["Siblings", "Step"]
