"""Runs paths beside the frozen weights of a model: composed once, chosen for each call or each row of a batch."""
