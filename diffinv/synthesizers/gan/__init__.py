"""A small class-conditional GAN: its networks, its training, its inversion, and both as synthesizers."""
