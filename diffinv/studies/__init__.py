"""Comparisons: a grid of trainings, its statistics, the search for settings, claims and costs."""

import lazy_loader

LEAST_SEEDS = 3  # with fewer, an interval says nothing

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "grid": ["Condition", "run_study"],
        "statistics": ["paired_difference", "summarise", "worth_in_real_images"],
        "claims": [
            "beside_paper",
            "compare",
            "findings",
            "in_words",
            "judge",
            "paper_reported",
            "verdict",
            "when_it_pays",
        ],
        "cost": ["compute_table"],
    },
)
