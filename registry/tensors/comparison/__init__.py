"""Whether weights that somebody has are those of a path, and of which of several: from blocks, without whole models."""
