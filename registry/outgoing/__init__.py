"""The one door by which a service asks other machines: who may be asked, for how long, and how much is read."""
