"""Paths that run beside the weights of the base: one for a call of the model, or one for each row of its batch."""
