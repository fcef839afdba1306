"""Full fine-tunes: a whole model beside its parent, as an adapter."""
