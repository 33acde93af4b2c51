"""TinySD's card: what it can do, measured on held-out icon sets."""
