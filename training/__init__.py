"""From a model and prompts to bundles: sparse autoencoders, directions, and anchors of attention.

recordings/     activations on disk, with what is known of each prompt
dictionaries/   trains a sparse autoencoder on a recording, in a process of its own; mixing adds counterfactual tokens
routing         which sites and operators are worth one: candidates measures the terms, by alignment, sample_means,
                one_latent and resampling
selecting       which latents stand for a risk: by scores, or by counterfactuals of a probe; judged by held_out and
                separation; browsing shows where they fire
domains         adapts a decoder to another domain, by the loss of adaptation_terms, in closed form or by adaptation
site_gates      gates of a site's categories: thresholds by gates, weights by gate_weights; topk_thresholds for steering
                by chosen rows alone
assembling      what was made of each site, as one bundle
recipes/        all of that from one file
directions/     directions in a language model, and their way to a generator's text encoder
flows/          anchors of unsafe attention outputs; localisation sets their thresholds

codes, maxima and tails go over the latents of a recording as it streams by; records reads lists of text; alone keeps
two processes from one folder.
"""
