"""Modules of the denoisers that most LoRAs are made for, for any config of their classes, without these classes."""
