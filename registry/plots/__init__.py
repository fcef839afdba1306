"""Plots as SVG, from templates: readable in light and dark, with titles for screen readers."""
