"""The paper's own code, called upstream: each thing it does otherwise is a switch, all are a preset.

from diffinv.synthesizers.upstream import UPSTREAM, Upstream, UpstreamInversion, differences

for difference in differences():
    synthesizer = UpstreamInversion(sd, difference.flip(Upstream()))  # ours, but for this one behaviour
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["Difference", "Switches", "UPSTREAM", "Upstream", "differences", "steps_per_image"],
        "synthesizer": ["UpstreamInversion"],
    },
)
