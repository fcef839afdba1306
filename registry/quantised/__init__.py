"""Quantised base models: which stored tensors are codes, scales and zero points, and what plain tensors they mean."""
