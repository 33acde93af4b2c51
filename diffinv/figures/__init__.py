"""Result rows or images in, matplotlib figures out; nothing is computed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "style": ["COLOURS", "CYCLE", "GREY", "MARKERS", "OKABE_ITO", "save_figure", "style", "use_style"],
        "plots": [
            *("accuracy_curve", "bars", "claims_forest", "cost_against_loss", "forest", "grouped_points"),
            *("heat_map", "ledger_figure", "loss_curves"),
            "shared_legend",
        ],
        "image_grids": ["gallery", "image_grid", "interpolation_row"],
        "diagrams": ["method_diagram"],
    },
)
