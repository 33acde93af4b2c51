"""The page of an evaluation card: one HTML file with its figures inside, on light or dark ground."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from diffinv.artefacts.writing import write_atomically
from diffinv.datasets import LabelledImages
from diffinv.evaluation.card import EvaluationCard, format_value, gain_text
from diffinv.evaluation.style import STYLE
from diffinv.figures.evaluation import SHARES, closeness_plot, manifold_plot, plot_uris, strip_uri
from diffinv.metrics.copies import Closeness

PAIRS_SHOWN = 8
CLASSES_SHOWN = 20
REAL_SHOWN, SYNTHETIC_SHOWN = 3, 8


def write_page(card: EvaluationCard, path: str | Path, *, title: str) -> None:
    """Write the card as one self-contained HTML file."""
    with write_atomically(path, "w") as file:
        file.write(evaluation_page(card, title=title))


def evaluation_page(card: EvaluationCard, *, title: str) -> str:
    """The HTML of a card; it loads nothing from anywhere."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_summary(card))}</p>',
        _metrics(card),
        _accuracies(card),
        _manifolds(card),
        _closeness(
            card.copies,
            card.test_copies,
            card.synthetic,
            card.real,
            heading="Copies: are training images repeated?",
            names=("training", "test"),
        ),
    ]
    if card.leaks is not None and card.test is not None:
        parts.append(
            _closeness(
                card.leaks,
                card.real_leaks,
                card.synthetic,
                card.test,
                heading="Leaks: are test images repeated?",
                names=("test", "training"),
            )
        )
    parts += [_classes(card), _samples(card), _notes(card)]
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<main>
{body}
</main>
</html>
"""


def _summary(card: EvaluationCard) -> str:
    real, fakes = card.real, card.synthetic
    sets = [f"{len(fakes):,} synthetic images", f"{len(real):,} training images"]
    if card.test is not None:
        sets.append(f"{len(card.test):,} test images")
    width = f"{real.num_classes} classes at {real.resolution} px"
    return (
        f"{', '.join(sets)}; {width}; features of CLIP {card.settings['clip']!r}; k = {card.settings['k']}."
    )


def _metrics(card: EvaluationCard) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row.metric)}</th>'
        f'<td class="own">{format_value(row.metric, row.synthetic)}</td>'
        f"<td>{format_value(row.metric, row.real)}</td>"
        f'<td class="words">{escape(row.better)}</td><td class="sentence">{escape(row.meaning)}</td></tr>'
        for row in card.metrics.itertuples()
    )
    return f"""<h2>In all</h2>
<div class="scroll"><table>
<caption>"Real images" are the test images in the place of the synthetic ones; for leaks, for accuracy and for
diversity, the training images. A dash: not known.</caption>
<thead><tr><th></th><th>synthetic</th><th>real images</th><th class="words">better</th>
<th class="words">what it says</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _accuracies(card: EvaluationCard) -> str:
    if card.accuracies is None:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row.condition)} images</th><td class="own">{row.mean:.1%}</td>'
        f"<td>{max(row.low, 0):.1%} to {min(row.high, 1):.1%}</td><td>{row.n}</td></tr>"
        for row in card.accuracies.itertuples()
    )
    gain = "" if card.gain is None else f"<p>{escape(gain_text(card.gain))}</p>"
    judges = card.real if card.test is None else card.test
    chance = max(judges.class_counts().values()) / len(judges)
    return f"""<h2>Accuracy of classifiers trained on it</h2>
<div class="scroll"><table>
<caption>Always naming the commonest class would be right for {chance:.1%} of the images.</caption>
<thead><tr><th class="words">trained on</th><th>accuracy</th><th>95 % interval</th><th>seeds</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
{gain}"""


def _manifolds(card: EvaluationCard) -> str:
    values = ", ".join(f"{name} {format_value(name, card[name])}" for name in SHARES)
    return "<h2>Fidelity and variety</h2>\n" + _plot(
        plot_uris(lambda palette: manifold_plot(card, palette)),
        alt=f"Points on a line from 0 to 1 for the synthetic images: {values}.",
        caption="Real images do not reach 1 everywhere either: the test images, where there are some, show "
        "how far one can get.",
    )


def _closeness(
    found: Closeness,
    control: Closeness | None,
    fakes: LabelledImages,
    references: LabelledImages,
    *,
    heading: str,
    names: tuple[str, str],
) -> str:
    nearest = f"the nearest {100 * found.quantile:g} %"
    text = (
        f"{found.share:.1%} of the synthetic images are as near to a {names[0]} image as {nearest} of those "
    )
    text += "are to each other"
    text += "." if control is None else f"; of the {names[1]} images {control.share:.1%} are."
    plot = _plot(
        plot_uris(lambda palette: closeness_plot(found, control, names, palette)),
        alt=f"Three rising curves of the share of images within a distance; {text}",
        caption=f"A curve far to the left of the dashed one means images nearer than {names[0]} images are "
        f"to each other; the dotted line is {nearest} of those, {found.threshold:.2f}.",
    )
    pairs = "\n".join(_pairs(found, fakes, references, names[0]))
    return f"""<h2>{escape(heading)}</h2>
<p>{escape(text)}</p>
{plot}
<p>The closest pairs, the synthetic image at the left and the {names[0]} image at the right, with the distance
between them (framed: within the dotted line):</p>
<ul class="pairs">
{pairs}
</ul>"""


def _pairs(found: Closeness, fakes: LabelledImages, references: LabelledImages, role: str) -> Iterator[str]:
    for index, nearest, ratio in found.closest(PAIRS_SHOWN):
        uri = strip_uri(np.stack([fakes.images[index], references.images[nearest]]))
        labels = [fakes.class_names[fakes.labels[index]], references.class_names[references.labels[nearest]]]
        alt = f"A synthetic {labels[0]} beside the {role} image nearest to it, a {labels[1]}"
        classes = "pair close" if ratio <= found.threshold else "pair"
        title = f"{fakes.ids[index]} · {references.ids[nearest]}"
        yield (
            f'<li class="{classes}" title="{escape(title)}"><img src="{uri}" alt="{escape(alt)}">'
            f"<span>{escape(' · '.join(dict.fromkeys(labels)))}, {ratio:.2f}</span></li>"
        )


def _classes(card: EvaluationCard) -> str:
    columns = [name for name in card.by_class.columns[1:] if card.by_class[name].notna().any()]
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(str(row["class"]))}</th>'
        + "".join(f"<td>{_cell(name, row[name])}</td>" for name in columns)
        + "</tr>"
        for row in card.by_class.to_dict("records")
    )
    return f"""<h2>By class</h2>
<div class="scroll"><table class="dense">
<thead><tr><th class="words">class</th>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _cell(name: str, value: float) -> str:
    return f"{value:,}" if name.endswith("images") else format_value(name, value)


def _samples(card: EvaluationCard) -> str:
    rows = "\n".join(_sample_rows(card))
    shown = f"The first {CLASSES_SHOWN} of {card.real.num_classes} classes." * (
        card.real.num_classes > CLASSES_SHOWN
    )
    return f"""<h2>What they look like</h2>
<div class="scroll"><table>
<caption>The first images of each class, not chosen. {shown}</caption>
<thead><tr><th class="words">class</th><th class="words">training</th>
<th class="words">synthetic</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _sample_rows(card: EvaluationCard) -> Iterator[str]:
    for label, name in enumerate(card.real.class_names[:CLASSES_SHOWN]):
        cells = []
        for role, side, count in (
            ("training", card.real, REAL_SHOWN),
            ("synthetic", card.synthetic, SYNTHETIC_SHOWN),
        ):
            images = side.images[side.labels == label][:count]
            alt = escape(f"{len(images)} {role} images of {name}")
            cell = f'<img src="{strip_uri(images)}" alt="{alt}">' if len(images) else "none"
            cells.append(f'<td class="strip">{cell}</td>')
        yield f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _notes(card: EvaluationCard) -> str:
    items = "\n".join(f"<li>{escape(note)}</li>" for note in card.notes)
    return f"<h2>Notes</h2>\n<ul>\n{items}\n</ul>" if items else ""


def _plot(uris: tuple[str, str], *, alt: str, caption: str) -> str:
    light, dark = uris
    return (
        f'<figure class="plot"><picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escape(alt)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
