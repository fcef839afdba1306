"""Combining: a revision that is the weighted sum of others, made, published, and made again to check it."""
