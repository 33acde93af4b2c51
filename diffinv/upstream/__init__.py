"""The paper's own code, called upstream: each thing it does otherwise is a switch, all are a preset.

from diffinv.upstream import UPSTREAM, Upstream, UpstreamInversion, differences

for difference in differences():
    synthesizer = UpstreamInversion(sd, difference.flip(Upstream()))  # ours, but for this one behaviour
"""

from diffinv.upstream.evaluation import TestedClassifier, train_and_test
from diffinv.upstream.inversion import invert_as_upstream, upstream_inversion_steps
from diffinv.upstream.settings import (
    UPSTREAM,
    Difference,
    Switches,
    Upstream,
    differences,
    groups_of,
    steps_per_image,
)
from diffinv.upstream.synthesizer import UpstreamInversion, group_partners

__all__ = [
    "UPSTREAM",
    "Difference",
    "Switches",
    "TestedClassifier",
    "Upstream",
    "UpstreamInversion",
    "differences",
    "group_partners",
    "groups_of",
    "invert_as_upstream",
    "steps_per_image",
    "train_and_test",
    "upstream_inversion_steps",
]
