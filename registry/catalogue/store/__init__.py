"""Which bytes are stored, and who needs them."""
