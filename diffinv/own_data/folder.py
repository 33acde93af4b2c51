"""A synthetic set on disk, with the real images beside it: for any trainer, and for who finds it later."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from diffinv.artefacts.writing import provenance, write_folder_atomically, write_whole
from diffinv.datasets import LabelledImages
from diffinv.own_data.look import OwnImages
from diffinv.studies.claims import markdown_table

# They differ from run to run, and what is written must not.
_OF_THE_RUN = ("created", "wall_seconds", "cost")


def save_set(
    folder: Path,
    real: LabelledImages,
    synthetic: LabelledImages,
    card: str,
    rows: pd.DataFrame,
    record: dict[str, Any],
) -> Path:
    """Write real/ and synthetic/, each class folders and Parquet, train.csv, comparison.csv and README.md.

    The same images give the same bytes. The folder appears whole or not at all, and replaces what this
    function wrote there before.
    """
    # A real image is its own source: both Parquet files have the same columns.
    parts = {"real": replace(real, sources=real.ids), "synthetic": synthetic}
    with write_folder_atomically(folder, {**_lasting(provenance()), **record}) as new:
        for name, images in parts.items():
            replace(images, provenance=_lasting(images.provenance)).save(new / name)
        for name, table in (("train.csv", _listed(parts)), ("comparison.csv", rows)):
            write_whole(new / name, table.to_csv(index=False))
        write_whole(new / "README.md", card)
    return folder


def card_text(
    own: OwnImages,
    synthetic: LabelledImages,
    *,
    comparison: str,
    faults: Sequence[str],
    nearer: pd.Series,
    record: dict[str, Any],
) -> str:
    """The card of a set, as Markdown with the header that the Hugging Face hub reads."""
    made = synthetic.class_counts()
    counts = [[name, str(count), str(made[name])] for name, count in own.real.class_counts().items()]
    chosen = [[name, str(value)] for name, value in record["chosen"].items()]
    model = record["model"]
    warning = "".join(f"**Beware:** {fault}\n\n" for fault in faults)
    return f"""---
license: other
task_categories:
- image-classification
tags:
- synthetic
configs:
- config_name: default
  data_files:
  - split: train
    path:
    - real/images.parquet
    - synthetic/images.parquet
---

# {own.name}, augmented by Diffusion Inversion

{len(synthetic)} synthetic images of {own.real.resolution} px, made from {len(own.real)} real ones, which
lie beside them. `train.csv` lists both, by paths relative to this folder: `path`, `label`, `synthetic`
(0 or 1) and `source`, the real image that a synthetic one was made from. An image and its samples belong
into the same part of any split.

{warning}## What it gains

```
{comparison}
```

The intervals are those of a cross-validation whose folds share training images (Nadeau and Bengio 2003).
Each fold's synthetic images were made from its own training images alone. `comparison.csv` has a row for
each classifier. Samples are nearer to their own original than to others by
{nearer["mean"]:.2f} [{nearer["low"]:.2f}, {nearer["high"]:.2f}] in cosine of CLIP features.

## Counts

{markdown_table(["class", "real", "synthetic"], counts)}

{len(own.validation)} further images, on which the settings were chosen, are not in this set.

## Where it comes from

The vectors of each real image were learned under the denoising loss of a frozen diffusion model,
`{model["name"]}` (weights {model["fingerprint"][:12]}), and samples drawn from varied vectors (Training on
Thin Air, arXiv 2305.15316). A sample has the label of its original; nobody has looked at each.
`provenance.json` has every setting. Chosen on validation images:

{markdown_table(["setting", "value"], chosen)}

## Licence

The real images keep the licence that they have, and this folder gives no other. The synthetic ones are
made from them and from the model: pass them on only where the licences of both allow it. Samples may
resemble their originals closely; where these are private, so are the samples.
"""


def _listed(parts: dict[str, LabelledImages]) -> pd.DataFrame:
    real = parts["real"]
    of_real = {name: f"real/{path}" for name, path in zip(real.ids, real.file_names, strict=True)}
    tables = [
        pd.DataFrame(
            {
                "path": [f"{name}/{path}" for path in images.file_names],
                "label": [images.class_names[label] for label in images.labels],
                "synthetic": int(name == "synthetic"),
                "source": [of_real[source] for source in images.sources or ()],
            }
        )
        for name, images in parts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in _OF_THE_RUN}
