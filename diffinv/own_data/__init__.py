"""One's own images in one call: what they are, whether the model can show them, a set, its gain."""
