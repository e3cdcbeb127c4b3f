"""Words that came from a link, a model or a file, shown as they are: they may not become a picture, a link or a colour.

    st.error(as_is(str(error)))          st.caption(f"layer {code(name)}")          hover = f"{plotted(token)}<br>..."

Streamlit reads Markdown wherever it shows a text: in messages, captions, labels, help, table cells. Beside Markdown's
own marks it makes links of bare addresses after all escapes are resolved, so those are parted by an invisible joiner.
Plotly reads a few HTML tags in every label.
"""

from __future__ import annotations

import re
from html import escape

DIRECTIVES = "red|orange|yellow|blue|green|violet|gray|grey|rainbow|primary|small|shimmer|help|badge|material"
MARKS = (
    re.compile(r"[\\`*~$<\[\]]"),  # code, emphasis, formulas, tags, links, pictures, colours
    re.compile(r"(?<!\w)_|_(?!\w)"),  # emphasis; between two letters it is none
    re.compile(r"&(?=#?\w+;)"),  # an entity
    re.compile(r"(?<!\w):(?=[A-Za-z])"),  # a colour, a badge
    re.compile(rf"(?<=\w):(?=(?:{DIRECTIVES}))"),  # within a word those names alone: a scheme is w:int4
    re.compile(r"^[#>+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]"),  # a heading, a quotation, a list
)
CODE = re.compile(r"(`[^`]+`)")
OPTION = re.compile(r"(?<![^\s(])(--[a-z][\w-]*)")  # of a command line: two dashes would become one long one
JOINER = "\N{WORD JOINER}"
LINKS = (
    (re.compile(r"(https?:)(?=//)", re.IGNORECASE), rf"\1{JOINER}"),
    (re.compile(r"(www)(?=\.)", re.IGNORECASE), rf"\1{JOINER}"),
    (re.compile(r"@(?=[-\w]+\.)"), f"@{JOINER}"),
    (re.compile(r":(?=[A-Za-z_+-][\w+-]*:|material/)"), f":{JOINER}"),  # an icon by its name
)


def as_is(text: str) -> str:
    """Markdown that shows `text` as it is, in one line. What stands between backticks, or is a command line's option,
    stays code, in which nothing is read."""
    parts = CODE.split(" ".join(text.split()))
    parts = [more for part in parts for more in ([part] if CODE.fullmatch(part) else OPTION.split(part))]
    return "".join(part if CODE.fullmatch(part) else _escaped(part) for part in parts)


def code(text: str) -> str:
    """Markdown that shows `text` as code, in one line."""
    line = " ".join(text.split()) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def plotted(text: str) -> str:
    """`text` for a label of a picture, in which no tag is read, nor the name of a colour."""
    return escape(text, quote=False).replace("var(", "var (")


def _escaped(text: str) -> str:
    if OPTION.fullmatch(text):
        return f"`{text}`"
    for mark in MARKS:
        text = mark.sub(lambda found: f"\\{found[0]}", text)
    for link, parted in LINKS:
        text = link.sub(parted, text)
    return text
