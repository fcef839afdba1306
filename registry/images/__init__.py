"""Adapters of image and video models: how their files name modules, and what each name means in a base model."""
