"""From recordings to bundles: sparse autoencoders, selection of latents, calibration of gates."""
