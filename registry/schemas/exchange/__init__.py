"""What registries and clients send each other, beside the answers that people read."""
