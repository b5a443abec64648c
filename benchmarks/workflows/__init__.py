"""Writes example_workflows, on the demo's model: each module lays one out and checks it against a host's own nodes.

demo.py has one picture three times, bundle.py makes a bundle, directions.py carries directions from a language model,
uvr.py restricts flow. prompts.py draws the lists of prompts that they learn from, files.py reads and writes them.
"""
