"""What the adapters of a path do to each slot, and the values that come out."""
