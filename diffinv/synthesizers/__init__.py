"""Synthesizers turn a real dataset into a synthetic one; they differ in their fields, never in their call."""

from diffinv.synthesizers.autoencode import Autoencode
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.gan import GAN
from diffinv.synthesizers.gan_inversion import GANInversion
from diffinv.synthesizers.knn_retrieval import KNNRetrieval
from diffinv.synthesizers.lecf import LECF
from diffinv.synthesizers.prompts import Prompts
from diffinv.synthesizers.real import Real

__all__ = [
    "GAN",
    "LECF",
    "Autoencode",
    "DiffusionInversion",
    "GANInversion",
    "KNNRetrieval",
    "Prompts",
    "Real",
    "Synthesizer",
]
