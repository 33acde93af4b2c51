"""LECF (arXiv 2210.07574): sentences about each class, images of the sentences, and a CLIP filter."""
