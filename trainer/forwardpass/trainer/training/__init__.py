"""How a model is trained: the loops, what they keep on disk, and what is told meanwhile."""
