"""Frozen networks: a Stable Diffusion, a CLIP, and how they are found, checked and fitted into memory."""
