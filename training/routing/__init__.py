"""Which sites and operators are worth an autoencoder, before any is trained.

ranking         the terms, how they are weighed, and whether a ranking held
candidates      measures the terms of each candidate
sample_means    what is kept of a recording for that: each sample's mean activation
alignment       how alike two descriptions of the same things are
one_latent      the operators over dictionaries of one latent, so that they can be run untrained
"""
