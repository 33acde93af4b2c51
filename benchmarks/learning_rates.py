"""Choose each architecture's learning rate on validation images: python -m benchmarks.learning_rates --help.

Real images alone are trained on, so that the choice favours no synthetic set; every architecture has the same
candidates. Every try is cached. The rows go into `diffinv/assets/learning_rates.csv`, which lesson 08 reads.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from diffinv.artefacts.writing import write_atomically
from diffinv.datasets import load_dataset
from diffinv.lessons.profiles import PROFILES, load_profile
from diffinv.studies import Condition, run_study
from diffinv.studies.architectures import CANDIDATES, LEARNING_RATES
from diffinv.studies.search import first_as_good
from diffinv.synthesizers.real import Real


def main(arguments: Sequence[str] | None = None) -> None:
    """Try every rate with every architecture, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="tiny")
    parser.add_argument("--datasets", nargs="+", default=["icons10"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="each with real images of its own")
    parser.add_argument("--output", type=Path, default=LEARNING_RATES)
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile)
    names = (*profile.architecture_lesson.architectures, profile.architecture_lesson.pretrained)
    tried = []
    for dataset in options.datasets:
        own = profile.for_dataset(dataset)
        counts = own.classifier_lesson
        training = own.training_for(dataset)
        conditions = [
            Condition(
                "real",
                Real(),
                replace(training, architecture=name, learning_rate=rate),
                1,
                counts.number_real_per_class,
                axes={"architecture": name, "learning_rate": rate},
            )
            for name in names
            for rate in CANDIDATES
        ]
        tried.append(
            run_study(
                conditions,
                train=load_dataset(dataset, split="train").per_class(counts.pool_per_class, seed=0),
                test=load_dataset(dataset, split="validation"),
                seeds=options.seeds,
                dataset=dataset,
            ).assign(images=len(load_dataset(dataset, split="validation")))
        )
    rows = chosen(pd.concat(tried, ignore_index=True))
    with write_atomically(options.output, "w") as file:
        rows.to_csv(file, index=False, float_format="%.4g", lineterminator="\n")
    print(rows.to_string())


def chosen(tried: pd.DataFrame) -> pd.DataFrame:
    """The tries with a mark at each architecture's choice.

    That is the first candidate whose mean accuracy on all validation images is as good as the best one's.
    """
    rows = tried[["architecture", "learning_rate", "dataset", "seed", "accuracy"]].assign(chosen=False)
    images = int(tried.drop_duplicates("dataset")["images"].sum())
    for name, own in rows.groupby("architecture", sort=False):
        means = own.groupby("learning_rate", sort=False)["accuracy"].mean()
        rate = first_as_good(means.to_dict(), images)
        rows.loc[(rows["architecture"] == name) & (rows["learning_rate"] == rate), "chosen"] = True
    return rows


if __name__ == "__main__":
    main()
