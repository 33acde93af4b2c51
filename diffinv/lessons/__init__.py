"""What the notebooks share: the numbers of every profile, and explorers."""
