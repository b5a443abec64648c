"""Installs and starts real ComfyUI hosts for demos, tests and measurements."""
