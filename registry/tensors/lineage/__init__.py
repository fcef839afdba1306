"""The path of a reference as tensors see it: its links and open blobs, and what an artifact of it is to be."""
