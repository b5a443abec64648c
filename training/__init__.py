"""From a model and prompts to bundles: sparse autoencoders, directions, and anchors of attention.

A folder imports only from those above it.

recordings/     activations on disk, with what is known of each prompt
latents/        the latents of a recording as it streams by
contrasts/      unsafe tokens against safe ones: probe, counterfactuals, how well a direction parts them
routing/        which sites and operators are worth an autoencoder
dictionaries/   trains a sparse autoencoder on a recording, in a process of its own
selection/      which latents of it stand for a risk
adaptation/     adapts its decoder to another domain
gates/          gates of a site's categories: thresholds and weights
recipes/        all of that from one file
directions/     directions in a language model, and their way to a generator's text encoder
flows/          anchors of unsafe attention outputs, and their thresholds

assembling writes what was made of each site as one bundle; records reads lists of text; alone keeps two processes from
one folder.
"""
