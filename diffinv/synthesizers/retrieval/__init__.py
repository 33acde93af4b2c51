"""Retrieval: for each real image the most similar images of a pool."""
