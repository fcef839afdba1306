"""The pages of an adapter: what a revision is, its files and tensors, how it is used, compared and changed."""
