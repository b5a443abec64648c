"""The commands of `python -m steerdit`: what nodes offer, for long work and machines without a screen.

Each module has `add_arguments(parser)` and `run(arguments) -> int`, over the functions that the nodes use too.
"""
