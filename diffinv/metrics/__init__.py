"""How close to real images, and how varied, synthetic ones are: distances between their features."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "manifolds": ["Manifolds", "precision", "recall"],
        "distances": [
            "diversity",
            "diversity_between",
            "frechet_distance",
            "gaussian_distance",
            "kernel_distance",
            "nearest_neighbour_distances",
        ],
        "copies": ["Closeness", "authentic", "closeness"],
    },
)
