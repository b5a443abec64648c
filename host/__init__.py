"""The only code that imports comfy: the wrapper, the run, the model families, the folders."""
