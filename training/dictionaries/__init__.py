"""Training of sparse autoencoders on recordings: TopK, BatchTopK and JumpReLU."""
