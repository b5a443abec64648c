"""SafeDIG whole, on risks that the source autoencoder never saw: ``nox -s bench -- safedig``.

One rotation holds one risk category out as the *target*; the other three are the *source*. What transfer means here,
where the paper's own definition is not public:

- **source autoencoder**: trained on a recording of source unsafe prompts, their safe rewrites and benign prompts. The
  target's prompts are not in that recording, so that nothing of them can leak, not even into the scale of its inputs.
- **unadapted**: that autoencoder with the latents that source pairs chose: what a user has who knows nothing of the
  target. A second column takes latents that target pairs chose, which parts the gain of choosing from that of adapting.
  Blend needs a second decoder; the unadapted one has it from source pairs.
- **SafeDIG**: the encoder frozen; latents H chosen from target pairs that this encoder encodes; decoder rows of H
  adapted to the target, with the source replayed and the stability term; at the sites that routing ranks first. The
  decoder learns from pairs of unsafe tokens and their safe rewrites: on safe tokens alone the latents of H are silent,
  so that their rows, the only ones Blend uses, would stay as they are (the paper's lesson is among the ablations).
- **upper bound**: an autoencoder that was trained on all four categories, everything else as in SafeDIG.

Routing sees the source recording only. Gates are weighed by the pairs that chose the latents and calibrated on prompts
that trained nothing, for every arm alike: a gate that is set otherwise would be measured instead of the autoencoder.
Settings were chosen on other prompts (``--validate``) than those that are judged.

What is shared, so that the whole takes hours instead of a day: a source recording is the whole one without the target
(sharing.py); gates are watched while the unsteered pictures are made, and a picture that none of an arm's gates would
touch is that very picture (pictures.py; some are made again after all, and have to be equal to the bit). Sampling takes
10 steps instead of the demo's 20, and ablations and attacks are read over all four rotations, 52 pictures of each.

settings.py says how much, worlds.py holds the model and its recordings, dictionaries.py trains, parts.py makes the
bundle of one site, arms.py says what is compared, asking.py makes a cell of it, claims.py draws the claims.
"""
