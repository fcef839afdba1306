"""Several adapters trained at once over one frozen parent: rows of one batch, a gradient and an optimizer each."""

from registry.pool.siblings.siblings import Siblings
from registry.pool.siblings.trainer import Step

__all__ = ["Siblings", "Step"]
