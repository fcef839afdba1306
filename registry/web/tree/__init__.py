"""The pages of a base model: its adapters as a list, a drawing, a table and a plane, and the search."""
