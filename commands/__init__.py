"""The commands of `python -m steerdit`: what nodes offer, for long work and machines without a screen.

Each module but hosted.py, which has what several ask alike, is a command: `add_arguments(parser)` and
`run(arguments) -> int`, over the functions that the nodes use too.
"""
