"""The best pairs of a lower rank, which ranks to take, and what that loses."""
