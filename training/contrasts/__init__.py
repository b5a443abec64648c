"""Unsafe tokens against safe ones at one site, before any latent is chosen.

probe              a linear probe of unsafe
counterfactuals    where an unsafe token turns safe on the way to its safe rewrite; directions; latents that flip there
separation         how well a direction parts held-out tokens
"""
