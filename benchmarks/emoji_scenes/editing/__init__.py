"""The emoji world edited: instructions, the triples that teach them, and who judges what came of them."""
