"""The only code of the pack that imports comfy: the wrapper, the run, the model families, the folders."""
