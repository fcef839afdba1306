"""Products, sums and roundings that give the same bytes every time."""
