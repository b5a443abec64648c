"""The latents of a recording's activations, as they stream by.

codes        activations in, latents out, piece by piece
maxima       the highest value of each sample
"""
