"""What the links of a path did to the base model: figures of their deltas, from the factors alone."""
