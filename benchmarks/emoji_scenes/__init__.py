"""Emoji scenes: a small generative world with real semantics, in which "unsafe falls and all else stays" can be measured."""
