"""Compiles a pool's model once, with slots of fixed shapes for what paths do to its modules."""
