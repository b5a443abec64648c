"""Commands for long work that needs models and recordings; they offer what the nodes offer, over the same functions."""
