"""A frozen range: how much of a new text does it clip?"""

from __future__ import annotations

from quantcore.lab.frozen_ranges import OBSERVERS, WATCHED
from quantcore.lab.lab import Lab
from quantcore.numbers.digits import digits
from quantcore.studies.ranges import MOST_STEPS, Clip
from quantcore.text.reading import STUDY, Reading
from quantcore.text.windows import TEXT_KINDS
from ui.course.guess import Number
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.scenes.s08_wall import LAYERS, others_of
from ui.course.stage import fitted, short
from ui.figures.ranges import steps_picture, tokens_picture

OBSERVER = next(one for one in OBSERVERS if one.endswith("p99.99"))
RECORDED = Reading.parse(WATCHED).source.rpartition("/")[2]
NAMES = {kind: f"{kind} text" for kind in TEXT_KINDS} | {"code": "source code"}  # no code of a number
READINGS = tuple(f"evaluation/{kind}|1x{STUDY.length}" for kind in TEXT_KINDS)


def find(lab: Lab) -> Specimen | Missing:
    """Of the block with the wall, else of the default layer's, the layer and the kind of text whose tokens its frozen
    range clips most."""
    wall = lab.wall()
    first = lab.default_layer() if wall is None else wall.layer
    block = [first, *others_of(lab, first)[:LAYERS]]
    worst, layer = max(
        ((max(clips_of(lab, one), key=lambda clip: clip.touched), one) for one in block),
        key=lambda pair: pair[0].touched,
    )
    if worst.touched == 0:
        return Missing(f"The range that {short(layer)} freezes on {RECORDED} text clips no token of any of our texts.")
    study = lab.ranges(layer, (OBSERVER,), MOST_STEPS, reading=_reading(worst.text))
    row = study.static[0]
    said = (
        f"While the model read {study.tokens:,} tokens of {RECORDED} text, the range of what enters {short(layer)} was "
        f"recorded and frozen: {digits(row.lo)} to **{digits(row.hi)}**, with 1 value in 10,000 left outside at either "
        f"end. Now it reads new text: {NAMES[worst.text]}, which of our {len(TEXT_KINDS)} kinds suffers most"
        f"{f'; and this layer most of {len(block)} of its block' if len(block) > 1 else ''}. What share of its tokens "
        "has a value clipped?"
    )
    guess = Number("%", 0, 100, 0.5, near=2, name="tokens of the new text with a clipped value")
    return Specimen(said, guess, of=(layer, worst.text))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, kind = found.of
    reading = _reading(kind)
    clips = {one.text: one for one in clips_of(lab, layer)}
    study = lab.ranges(layer, (OBSERVER,), MOST_STEPS, reading=reading)
    row, token = study.static[0], study.others.token
    touched = 100 * clips[kind].touched
    why = (
        f"{NAMES[kind].capitalize()} goes beyond the range with {1e6 * clips[kind].clipped:,.0f} in a million values. "
        f"That is little, but each token brings {lab.layers()[layer][1]:,} values: **{touched:.1f}%** of the tokens "
        f"lose one or more. Frozen, the median token keeps {row.token_sqnr_db:z.1f} dB; with a range of its own, taken "
        f"as it comes, **{token.token_sqnr_db:.1f}**."
    )
    others = ", ".join(
        f"{NAMES[name].removesuffix(' text')} {one.touched:.1%}" for name, one in clips.items() if name != kind
    )
    twist = f"It depends on the text: {others}. What a range was frozen on decides what it does to yours."
    texts = lab.token_texts(reading)
    steps = fitted(steps_picture(study), 225, showlegend=False, title=None)
    tokens = fitted(tokens_picture(study, study.trails[0], texts), 225, showlegend=False, title=None)
    for fig, words in ((steps, f"dotted: frozen at {digits(row.hi)}"), (tokens, "x: clipped")):
        fig.add_annotation(
            text=words, x=1, y=1, xref="paper", yref="paper", xanchor="right", yanchor="bottom", showarrow=False
        )
    pictures = (
        Shown(steps, f"frozen at {digits(row.hi)} after the last of {MOST_STEPS} steps of {RECORDED} text", 225),
        Shown(tokens, f"{touched:.1f}% of the tokens of {kind} go beyond {digits(row.hi)}", 225),
    )
    more = "pages/4_Static_or_dynamic.py", {"layer": layer, "text": kind}
    return Reveal(f"{touched:.6g}", f"**{touched:.1f}%** of the tokens.", why, pictures, twist, more=more)


def clips_of(lab: Lab, layer: str) -> tuple[Clip, ...]:
    """What the layer's frozen range clips of each kind of text."""
    return lab.clips(layer, (OBSERVER,), MOST_STEPS, WATCHED, READINGS)


def _reading(kind: str) -> str:
    return next(one for one, name in zip(READINGS, TEXT_KINDS, strict=True) if name == kind)


SCENE = Scene(
    "frozen",
    "A frozen range",
    "What share of a new text's tokens does a frozen range clip?",
    find,
    reveal,
    slow="A range is recorded and frozen",
    slow_find=True,
)
