"""concatc: a compiler for neural networks in which concat and reuse are explicit, and then free."""
