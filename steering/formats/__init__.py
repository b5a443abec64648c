"""The bundle format: one safetensors file with a validated header."""
