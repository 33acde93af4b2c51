"""Image classifiers: the judges of every synthetic set, small enough to train dozens of them."""
