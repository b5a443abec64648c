"""The arithmetic of steering: encode, select, decode, steer."""
