"""Base models: checked, hashed, understood and added."""
