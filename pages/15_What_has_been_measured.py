"""What has been measured of this model? All that browser, shell or notebook have tried; and a queue for more."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from quantcore.lab.bench import LEARNED
from quantcore.lab.lab import Lab
from quantcore.measure.luck import JITTERS, Spread, jittered
from quantcore.measure.measured import Measured, aparts, with_jitters, with_luck
from quantcore.scheme.fitting import GROUPS
from quantcore.scheme.products import MOST, expanded
from quantcore.text.reading import EVALUATE
from ui import frame, kept, visitors
from ui import widgets as controls
from ui.answers import answer, job_key
from ui.components.chart import chart
from ui.figures.measured import bytes_and_kl
from ui.ready import DUEL_TOKENS
from ui.sections.luck import luck_part
from ui.sidebar import Choice
from ui.words import measured as words
from ui.words.glossary import first_defined
from ui.words.measured import rows_key

TITLE = "What has been measured"
SECTION = "Decide"
PRODUCT = "w:int{3|4}/{group32|group64|channel}"
MOST_PAIRS = 6  # rows that are compared at once
MOST_IN_DUEL = 6
FORMATS = {"KL": "%.3g", "luck ±": "%.2g", "same token, %": "%.1f", "perplexity": "%.2f", "MB": "%.1f"}
FORMATS |= {"bits a weight": "%.3f"}
COLUMNS: dict[str, Any] = {  # together as wide as a window of 900 pixels, and no column out of it
    "scheme": st.column_config.TextColumn(width=230, help=first_defined("scheme")),
    **{
        name: st.column_config.NumberColumn(format=digits, width=90, help=first_defined(name))
        for name, digits in FORMATS.items()
    },
}

CHOSEN = "chosen_rows"  # of the table, by their keys in the store

LOOK_FOR = (
    "Every whole-model measurement of this model is kept: duels, rules, advice, from pages, shell and notebooks alike. "
    "Schemes that read the same windows stand in one table, and any two of them can be compared in pairs."
)


def tries(choice: Choice) -> frame.Tries:
    """On the loaded model: the groups that divide its layers."""
    every = choice.lab.shapes().values()
    grains = [f"group{size}" for size in GROUPS if all(width % size == 0 for _, width in every)]
    return [
        ("bits by who shares a scale", {"more": f"w:int{{3|4}}/{{{'|'.join(['channel', *grains])}}}"}),
        ("rounding or GPTQ", {"more": "{W3A16|W4A16}{|,gptq}"}),
        ("inputs in 8 bits, too", {"more": "{W8A16|W8A8|FP8|FP8_DYNAMIC}"}),
    ]


def queued(lab: Lab, asked: tuple[tuple[str, ...], str, str], begun: bool) -> None:
    """One queue: it begins at a press, and goes on by itself where it was begun, before a restart too."""
    count = len(asked[0])
    found = answer(f"{count} schemes, one after another", lab, Lab.queue, *asked, start=begun, button="Measure")
    if found.whole is not None:
        st.caption(f"All {count} are measured: they stand in the table.")
    elif (job := kept.jobs().get(job_key(lab, Lab.queue, *asked))) is not None:
        lab.note_queue(*asked, given_up=job.over)  # one that waits in line has not come so far yet


def more(choice: Choice) -> str | None:
    """A list of schemes, or products of them, one a line, measured one after another; and what is under way. What they
    are measured on, where a list is asked for."""
    begun = choice.lab.unfinished()
    asked = list_of(choice)
    for one in begun:
        if one != asked:
            queued(choice.lab, one, True)
    if asked is None:
        return None
    queued(choice.lab, asked, asked in begun)
    return asked[1]


def list_of(choice: Choice) -> tuple[tuple[str, ...], str, str] | None:
    """What is asked for in the box; None for nothing that the model can take."""
    lab = choice.lab
    asked = controls.lines("Schemes, one a line; {a|b} are choices", "", "more", height=100)
    reading = str(EVALUATE.at_most(controls.pick("Tokens", DUEL_TOKENS, DUEL_TOKENS[0], "tokens")))
    lines = [one for line in asked.splitlines() if line.strip() for one in expanded(line.strip())]
    if not lines:
        st.caption(f"For example `{PRODUCT}`: six schemes. At most {MOST} from one line.")
        return None
    able, refused = lab.sorted_out(list(dict.fromkeys(lines)))
    for text, reason in refused.items():
        frame.sentence(f"{text}: {reason}")
    return (tuple(able.values()), reading, choice.calibration) if able else None


def reading_of(lab: Lab, rows: list[Measured]) -> str | None:
    """What rows were measured on, where it is one of our texts."""
    return lab.reading_of(rows[0].text_hash, rows[0].report.tokens)


def table(rows: list[Measured], spreads: Mapping[str, Spread]) -> list[Measured]:
    """All rows; those that are chosen in it: a browser knows them by their places, so where rows come, go or are
    filtered it is another table, in which the same ones are chosen, also those that a filter has hidden meanwhile."""
    before = st.session_state.get(CHOSEN, ())
    shown = st.dataframe(
        words.short_table(rows, spreads), hide_index=True, width="stretch", column_config=COLUMNS, key=rows_key(rows),
        on_select="rerun", selection_mode="multi-row", placeholder="",
        selection_default={"selection": {"rows": [place for place, row in enumerate(rows) if row.key in before]}},
    )  # fmt: skip
    places = shown.get("selection", {}).get("rows", [])
    chosen = [rows[place] for place in places if place < len(rows)]
    hidden = set(before) - {row.key for row in rows}
    st.session_state[CHOSEN] = (*(row.key for row in chosen), *hidden)
    return chosen


def luck_of(lab: Lab, chosen: list[Measured], spreads: Mapping[str, Spread]) -> None:
    """A button that measures the chosen rows' rounding luck, where any waits for it and this lab can measure them
    again; what it finds are rows of the store, as all others."""
    able = [row for row in chosen if jittered(row.scheme)]
    if len(chosen) < 2 or all(row.key in spreads and spreads[row.key].freedom >= JITTERS for row in able):
        return
    reading = reading_of(lab, chosen)
    again = tuple(sorted(row.scheme for row in able if reading and lab.kept_duel((row.scheme,), reading)))
    if reading and again:  # all of them, those too that have some luck by now: so a job under way stays the same job
        luck_part(lab, again, reading, LEARNED)
    else:
        st.caption("Their rounding luck can be measured only on the device and the text that they were measured on.")


def with_chosen(lab: Lab, chosen: list[Measured], spreads: Mapping[str, Spread]) -> None:
    """What can be done with the rows that are chosen: compared in pairs, opened in a duel, thrown away."""
    if not chosen:
        st.caption("Choose rows to compare them in pairs, to open them in a duel, or to throw them away.")
        return
    if len(chosen) == 1:
        frame.take_links({chosen[0].scheme: chosen[0].scheme})
    named = {row.key: row for row in chosen}
    for (one, other), apart in aparts(lab.store(), chosen[:MOST_PAIRS], spreads).items():
        st.markdown(f"- {words.difference(named[one], named[other], apart)}")
    luck_of(lab, chosen[:MOST_PAIRS], spreads)
    with st.container(horizontal=True, vertical_alignment="center"):
        if 2 <= len(chosen) <= MOST_IN_DUEL:
            schemes = "\n".join(row.scheme for row in chosen)
            frame.link("Open them in a duel", "pages/7_Scheme_duel.py", {"duel": schemes})
        if visitors.may_present():
            keys = with_jitters(lab.measured(), chosen)
            st.button(f"Throw {len(chosen)} away", on_click=lab.store().drop, args=(keys,), key="drop")


def body(choice: Choice) -> None:
    lab = choice.lab
    opened = not lab.measured() or "more" in st.query_params or bool(lab.unfinished())
    asked = None
    with st.expander("Measure more", expanded=opened), frame.problems():
        asked = more(choice)
    texts: dict[str, list[Measured]] = {}
    own, spreads = with_luck(lab.measured())
    for row in own:
        texts.setdefault(row.text_hash, []).append(row)
    if not texts:
        st.info("Nothing has been measured of this model yet. Ask for schemes above, or open a duel.")
        frame.link("A first duel", "pages/7_Scheme_duel.py", {})
        return
    largest_first = sorted(texts.values(), key=len, reverse=True)
    readings = [reading_of(lab, rows) for rows in largest_first]
    names = {words.text_name(rows, read): rows for rows, read in zip(largest_first, readings, strict=True)}
    first = list(names)[readings.index(asked) if asked is not None and asked in readings else 0]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        rows = names[controls.select("Read", list(names), controls.follow_default("read", first), "read", width=430)]
        only = controls.line("Only schemes with", "", "only", placeholder="int4 gptq", width=260)
    every, rows = rows, words.with_all(rows, only)
    if not rows:
        st.info(f"None of {len(every)} schemes on this text has {only.strip()!r} in its text or its preset's name.")
        return
    said = words.headline(rows, only)
    frame.headline(said)
    place = st.container()
    chosen = table(rows, spreads)
    with place:
        chart(bytes_and_kl(rows, {row.key for row in chosen}), key="measured", alt=said.replace("*", ""))
        st.caption(words.alike(rows))
    with_chosen(lab, chosen, spreads)
    frame.numbers(words.table([row for rows in texts.values() for row in rows], spreads), "measured")


frame.show(__file__, "What has been measured?", LOOK_FOR, tries, body)
