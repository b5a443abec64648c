"""The pack's side of ComfyUI: the wrapper, the run, the model families, sampling, recording, the folders.

In the pack, only this folder imports the host's internals; nodes/ imports its node API. benchmarks/ has three more
doors, named in pyproject.toml's import contracts: the demo's loaders, a host in the benchmark's process, a block of it.
"""
