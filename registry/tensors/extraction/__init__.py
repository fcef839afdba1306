"""A full model as the best adapter on its parent: what changed, its best pairs, and their true errors."""
