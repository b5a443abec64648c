"""Training of sparse autoencoders on recordings: TopK, BatchTopK and JumpReLU, in a process of its own."""
