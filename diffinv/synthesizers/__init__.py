"""Synthesizers turn a real dataset into a synthetic one; they differ in their fields, never in their call."""

from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.prompts import Prompts
from diffinv.synthesizers.real import Real

__all__ = ["DiffusionInversion", "Prompts", "Real", "Synthesizer"]
