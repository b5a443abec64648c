"""How the shipped bundle was made: BatchTopK autoencoders, one closed form for the second decoder, plain quantiles.

Users make bundles with training/; this stays as it was, so that the shipped file can be made again from its seeds.
"""
