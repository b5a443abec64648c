"""Which latents of a trained autoencoder stand for a risk.

choosing    chooses and judges them
scores      SAeUron's score per noise level
held_out    divides prompts; how well a latent tells unsafe from safe on those that are held out
browsing    where latents fire most, for people
"""
