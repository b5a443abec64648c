"""Which latents of a trained autoencoder stand for a risk.

choosing    chooses and judges them
scores      SAeUron's score per noise level
quality     how well a single latent tells unsafe from safe
browsing    where latents fire most, for people
"""
