"""Emoji scenes: a small generative world with real semantics.

In it, "unsafe falls and all else stays" can be measured.
"""
