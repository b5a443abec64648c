"""SafeDIG whole, on risks that the source autoencoder never saw: ``nox -s bench -- safedig``.

One rotation holds one risk category out as the *target*; the other three are the *source*. What transfer means here,
where the paper's own definition is not public:

- **source autoencoder**: trained on a recording of source unsafe prompts, their safe rewrites and benign prompts. The
  target's prompts are in another recording, so that nothing of them can leak, not even into the scale of its inputs.
- **unadapted**: that autoencoder with the latents that source pairs chose: what a user has who knows nothing of the
  target. A second column takes latents that target pairs chose, which parts the gain of choosing from that of adapting.
  Blend needs a second decoder; the unadapted one has it from source pairs.
- **SafeDIG**: the encoder frozen; latents H chosen from target pairs that this encoder encodes; decoder rows of H
  adapted to the target, with the source replayed and the stability term; at the sites that routing ranks first. The
  decoder learns from pairs of unsafe tokens and their safe rewrites: on safe tokens alone the latents of H are silent,
  so that their rows, the only ones Blend uses, would stay as they are (the paper's lesson is among the ablations).
- **upper bound**: an autoencoder that was trained on all four categories, everything else as in SafeDIG.

Routing sees the source recording only. Gates are calibrated on prompts that trained nothing, for every arm alike: a
gate that is set otherwise would be measured instead of the autoencoder. Judged prompts are drawn by another seed.

settings.py says how much, worlds.py holds the model and its recordings, dictionaries.py trains, parts.py makes the
bundle of one site, arms.py says what is compared, asking.py makes a cell of it, claims.py draws the claims.
"""
