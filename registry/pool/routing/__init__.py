"""Which path answers which row: functions, centroids of embeddings in the tree, classifiers published in it."""

from registry.pool.routing.centroids import Centroids
from registry.pool.routing.classifier import Classifier

__all__ = ["Centroids", "Classifier"]
