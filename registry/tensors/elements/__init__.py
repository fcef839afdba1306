"""Elements of tensors: dtypes, and whether values are finite."""
