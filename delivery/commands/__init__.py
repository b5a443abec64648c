"""The command line's part of delivery; each module has `add_arguments(parser)` and `run(arguments) -> int`."""
