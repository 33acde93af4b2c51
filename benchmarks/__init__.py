"""Measurements of what the package adds to the bare network calls that it cannot do without."""
