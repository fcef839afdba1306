"""Adapter registry: LoRA adapters as a tree, composed and merged along its paths."""
