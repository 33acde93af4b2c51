"""What the notebooks share: the numbers of every profile, the methods compared, an opening, explorers."""

# The type of the output by which the runner finds what a notebook spent (`opening.Lesson.spent`).
SPENT = "application/vnd.diffinv.spent+json"
