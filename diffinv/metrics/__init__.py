"""How close to real images, and how varied, synthetic ones are: distances between their features."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "manifolds": ["precision", "recall"],
        "distances": ["diversity", "frechet_distance", "nearest_neighbour_distances"],
    },
)
