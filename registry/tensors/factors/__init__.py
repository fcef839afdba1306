"""Slots of the base, and the factors that change them, as matrices."""
