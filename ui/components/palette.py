"""Colours by name: a figure says `var(--blue)`, and the browser paints it for the light or the dark page.

A figure is drawn once on the server and looked at in light rooms and on dark walls. So no figure holds a hex code. It
holds names in CSS spelling, which plotly.py accepts wherever a colour may stand:

    go.Scatter(line_color=BLUE)                      a line, 3:1 or more against the page in both themes
    go.Bar(marker_color=token("blue", 0.4))          the same blue at opacity 0.4
    go.Heatmap(zmid=0, colorscale=DIVERGING)         zero takes the colour of the page and so disappears
    title="<b style='color:var(--blue)'>int4</b>"    prose in the colour of its line

SERIES are data colours, the Okabe-Ito set moved apart from both pages (on white its orange, sky and yellow are too pale
to be lines). One colour stands for one scheme on every page, and a dash or a marker always goes with it.
ROLES are read from Streamlit's own theme in the browser: ink (text), muted (axis titles), grid, surface (the page),
card (raised boxes), accent (buttons, sliders).
"""

import re
from typing import Final

SERIES: Final[dict[str, tuple[str, str]]] = {
    # name: (on the light page, on the dark page)
    "blue": ("#006fae", "#4ba3e3"),
    "vermilion": ("#b84b00", "#f5854a"),
    "green": ("#007a5b", "#2bc598"),
    "purple": ("#a94a82", "#dd92bf"),
    "amber": ("#8f5f00", "#e6a532"),
    "slate": ("#5f6b78", "#98a4b1"),
    "sky": ("#25709b", "#7cc4ee"),
    "teal": ("#0a777e", "#45c1c4"),
    "brown": ("#8a5a44", "#c79a83"),
    "olive": ("#657218", "#b5c255"),
}
ROLES: Final = ("ink", "muted", "grid", "surface", "card", "accent")
TOKENS: Final = (*SERIES, *ROLES)

_TOKEN = re.compile(rb"var\(--([^)]*)\)")
_NAME = re.compile(r"([a-z]+)(?:/(0?\.\d+|0|1))?")


def token(name: str, opacity: float = 1.0) -> str:
    """The text that stands for a colour in a figure: `token("blue", 0.4)` is `var(--blue/0.4)`.

    Raises: ValueError for a name that is not in TOKENS, or an opacity outside 0..1.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity} of colour {name!r} is outside 0..1")
    text = f"var(--{name})" if opacity == 1 else f"var(--{name}/{opacity:.3g})"
    refuse_unknown(text.encode())
    return text


def refuse_unknown(figure_json: bytes) -> None:
    """Raise ValueError if a figure's JSON holds a colour name that no theme knows."""
    for found in set(_TOKEN.findall(figure_json)):
        match = _NAME.fullmatch(found.decode())
        if match is None or match[1] not in TOKENS:
            known = ", ".join(TOKENS)
            raise ValueError(f"unknown colour var(--{found.decode()}); known: {known}; opacity as in var(--blue/0.4)")


BLUE: Final = token("blue")
VERMILION: Final = token("vermilion")
GREEN: Final = token("green")
PURPLE: Final = token("purple")
AMBER: Final = token("amber")
SLATE: Final = token("slate")
INK: Final = token("ink")
MUTED: Final = token("muted")
SURFACE: Final = token("surface")

SEQUENTIAL: Final = "Viridis"
DIVERGING: Final = [[0.0, BLUE], [0.5, SURFACE], [1.0, VERMILION]]
