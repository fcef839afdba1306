"""Full fine-tunes stored exactly: the tensors that differ from the base's stored bytes, in compressed frames."""
