"""TinySD's networks and how each is trained."""
