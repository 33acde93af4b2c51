"""Artefacts on disk: keys of their content, atomic writes, provenance."""
