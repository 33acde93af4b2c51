"""Diffusion Inversion: turn a small image dataset into a larger synthetic one with a frozen diffusion model.

    from diffinv import DiffusionInversion, load_dataset, load_diffusion

    sd = load_diffusion()
    real = load_dataset("icons10", split="train")
    synthetic = DiffusionInversion(sd)(real, images_per_real=5, seed=0)
    synthetic.save("my_synthetic_set")

Names are imported on first use (PEP 562), so that `import diffinv` and `diffinv --help` stay instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME_OF = {
    "AttributeGrammar": "synthesizers.sentences",
    "Autoencode": "synthesizers.autoencode",
    "Condition": "studies",
    "DiffusionInversion": "synthesizers.diffusion_inversion",
    "EmbeddingStore": "embeddings",
    "FrozenDiffusion": "diffusion",
    "GAN": "synthesizers.gan",
    "GANInversion": "synthesizers.gan_inversion",
    "GANTraining": "adversarial",
    "Inversion": "inversion",
    "KNNRetrieval": "synthesizers.knn_retrieval",
    "LECF": "synthesizers.lecf",
    "LabelledImages": "datasets",
    "LatentInversion": "adversarial",
    "MemorySettings": "memory",
    "Perturbation": "perturbation",
    "Prompts": "synthesizers.prompts",
    "Real": "synthesizers.real",
    "Sampling": "sampling",
    "Synthesizer": "synthesizers.base",
    "Training": "classifiers.training",
    "UPSTREAM": "upstream",
    "UpstreamInversion": "upstream",
    "WordToSentence": "synthesizers.sentences",
    "Workload": "memory",
    "dataset_card": "datasets",
    "denoising_steps": "sampling",
    "estimate": "work_estimate",
    "inversion_path": "cached_inversion",
    "inversion_steps": "inversion",
    "invert": "cached_inversion",
    "load_dataset": "datasets",
    "load_diffusion": "diffusion",
    "load_profile": "profiles",
    "run_study": "studies",
    "sample": "sampling",
    "train_classifier": "classifiers.training",
    "training_steps": "classifiers.training",
}
_NAME_AT_HOME = {"run_study": "run"}
_ROOMS = ("classifiers", "datasets", "figures", "metrics", "studies", "synthesizers", "upstream", "widgets")

__all__ = [
    "GAN",
    "LECF",
    "UPSTREAM",
    "AttributeGrammar",
    "Autoencode",
    "Condition",
    "DiffusionInversion",
    "EmbeddingStore",
    "FrozenDiffusion",
    "GANInversion",
    "GANTraining",
    "Inversion",
    "KNNRetrieval",
    "LabelledImages",
    "LatentInversion",
    "MemorySettings",
    "Perturbation",
    "Prompts",
    "Real",
    "Sampling",
    "Synthesizer",
    "Training",
    "UpstreamInversion",
    "WordToSentence",
    "Workload",
    "__version__",
    "dataset_card",
    "denoising_steps",
    "estimate",
    "inversion_path",
    "inversion_steps",
    "invert",
    "load_dataset",
    "load_diffusion",
    "load_profile",
    "run_study",
    "sample",
    "train_classifier",
    "training_steps",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), _NAME_AT_HOME.get(name, name))
    globals()[name] = value  # the next look-up no longer passes here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, *_ROOMS})


if TYPE_CHECKING:
    from diffinv.adversarial import GANTraining, LatentInversion
    from diffinv.cached_inversion import inversion_path, invert
    from diffinv.classifiers.training import Training, train_classifier, training_steps
    from diffinv.datasets import LabelledImages, dataset_card, load_dataset
    from diffinv.diffusion import FrozenDiffusion, load_diffusion
    from diffinv.embeddings import EmbeddingStore
    from diffinv.inversion import Inversion, inversion_steps
    from diffinv.memory import MemorySettings, Workload
    from diffinv.perturbation import Perturbation
    from diffinv.profiles import load_profile
    from diffinv.sampling import Sampling, denoising_steps, sample
    from diffinv.studies import Condition
    from diffinv.studies import run as run_study
    from diffinv.synthesizers.autoencode import Autoencode
    from diffinv.synthesizers.base import Synthesizer
    from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
    from diffinv.synthesizers.gan import GAN
    from diffinv.synthesizers.gan_inversion import GANInversion
    from diffinv.synthesizers.knn_retrieval import KNNRetrieval
    from diffinv.synthesizers.lecf import LECF
    from diffinv.synthesizers.prompts import Prompts
    from diffinv.synthesizers.real import Real
    from diffinv.synthesizers.sentences import AttributeGrammar, WordToSentence
    from diffinv.upstream import UPSTREAM, UpstreamInversion
    from diffinv.work_estimate import estimate
