"""What quantised weights mean, as numbers: decoded exactly, block by block, while they are read."""
