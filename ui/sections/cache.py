"""The tensors that a KV cache holds, as surfaces: keys have channel outliers, values do not."""

from __future__ import annotations

import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.model.layer_names import place_of
from quantcore.numbers.digits import digits
from quantcore.studies.outliers import ChannelStudy
from ui import frame
from ui.components.chart import chart
from ui.figures import outliers as figures
from ui.settled import settled
from ui.sidebar import Choice

FOLD = "Keys and values: what the KV cache holds"


def cache_part(choice: Choice, log: bool) -> None:
    """Both sides of the cache of the layer's block, one height for both; made once it is opened."""
    with frame.opened(FOLD, "cache_tensors") as is_open, frame.problems():
        if not is_open:
            return
        block = place_of(choice.layer)[0] or 0
        wanted = (block, choice.reading)
        drawn = settled(
            "cache", f"Keys and values of block {block}", choice.lab, wanted, lambda *asked: [(Lab.cache_sides, *asked)]
        )
        if drawn is not None:
            _surfaces(choice.lab, *drawn, log)


def _surfaces(lab: Lab, block: int, reading: str, log: bool) -> None:
    sides = dict(zip(("keys", "values"), lab.cache_sides(block, reading), strict=True))
    st.markdown(words({name: study for name, (_, study) in sides.items()}, block))
    texts = lab.token_texts(reading)
    reach = max(float(study.channel_absmax.max()) for _, study in sides.values())
    with st.grid(2, min_column_width=430):
        for name, (x, study) in sides.items():
            title = f"|{name}| of block {block}, same height"
            chart(
                figures.surface(x, study, texts, log, title, reach),
                key=f"surface_{name}",
                alt=f"{title}: the highest is {digits(float(study.channel_absmax.max()))}",
            )
    frame.link("What a coded cache loses", "pages/13_Context_lens.py", {})


def words(sides: dict[str, ChannelStudy], block: int) -> str:
    keys, values = sides["keys"], sides["values"]
    said = (
        f"In block {block} the loudest channel of the **keys** reaches **{keys.ratio:.1f}** times the median one, of "
        f"the **values** {values.ratio:.1f} times. Keys are as the cache stores them, behind their rotary position."
    )
    if keys.ratio > values.ratio:
        return said + " A loud channel sets a token's scale: with few bits, keys lose more than values."
    return said
