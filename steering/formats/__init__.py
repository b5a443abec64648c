"""Files that hold what steering needs."""
