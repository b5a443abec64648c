"""Training of autoencoders beside the peers' own trainers: ``nox -s bench -- trainers``.

cases.py has the settings, columns.py one step of each project's trainer, speed.py times them; training_kills.py and
adaptation_kills.py kill what is under way, and look whether it goes on to the same bytes.
"""
