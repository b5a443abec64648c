"""How each diffusion transformer family names its blocks and orders its tokens."""
