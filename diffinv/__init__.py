"""Diffusion Inversion: turn a small image dataset into a larger synthetic one with a frozen diffusion model.

    from diffinv import DiffusionInversion, load_dataset, load_diffusion

    sd = load_diffusion()
    real = load_dataset("icons10", split="train")
    synthetic = DiffusionInversion(sd)(real, images_per_real=5, seed=0)
    synthetic.save("my_synthetic_set")

The public names are listed in `__init__.pyi` and imported on first use, so that `import diffinv` is instant.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
