"""A decoder for another domain, with the encoder as it was.

terms      the loss, and its minimum in closed form
steps      the same by Adam, for dictionaries that are too large for that
domains    both, from the recordings of a target and a source domain
"""
