"""When a modifier is to act: the gates of a site's risk categories, calibrated on a recording.

sites         all gates of a site, from its selected latents
thresholds    from which score on a gate is open, and what it should cost and catch
weights       what each latent weighs in the score
tails         high quantiles of more numbers than memory holds
"""
