"""The Scheme duel on whole answers: how soon they part from the float model's, and a blind vote on them."""

from __future__ import annotations

import random

import streamlit as st

from quantcore.lab.answers import ANSWER
from quantcore.lab.lab import Lab
from quantcore.measure.duel import short_label
from quantcore.studies.answers import Answers
from quantcore.text.reading import PROMPTS
from quantcore.text.windows import prefix_of
from ui import frame
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import answers as figures
from ui.words import answers as words
from ui.words import tokens as token_view
from ui.words.names import by_name

BUTTON = f"Let all of them answer {PROMPTS.windows} prompts"


def answers_part(lab: Lab, schemes: tuple[str, ...], calibration: str) -> None:
    """How soon the answers of a duel's schemes part; asked for by a button, for it is a second duel's work."""
    st.header(words.HEADER)
    st.markdown(words.WHY)
    with st.container():
        title = f"Answers of {len(schemes)} schemes to {PROMPTS.windows} prompts"
        found = answer(
            title, lab, Lab.answers, schemes, ANSWER, str(PROMPTS), calibration, start=False, button=BUTTON
        ).whole
    if found is None:
        return
    frame.headline(words.headline(found), "answers")
    chart(figures.alike(found), key="answers", alt=words.headline(found).replace("*", ""))
    st.table(words.rows(found))
    vote_part(lab, found)


@st.fragment
def vote_part(lab: Lab, found: Answers) -> None:
    """Two answers to one prompt, whose is whose told after the vote."""
    names = by_name(scheme for scheme, places in found.parted.items() if any(at is not None for at in places))
    if not names:
        return
    st.subheader("Which answer is better? Vote, blind")
    default = max(names, key=lambda name: found.share(names[name])[0])
    scheme = names[controls.select("Float against", list(names), default, "vote")]
    votes: list[str] = st.session_state.setdefault(f"votes {lab.id} {scheme} {found.count}", [])
    pairs = [place for place, at in enumerate(found.parted[scheme]) if at is not None]
    random.Random(scheme).shuffle(pairs)
    if len(votes) < len(pairs):
        _ballot(lab, found, scheme, pairs[len(votes)], votes)
    else:
        st.markdown("That was the last pair that parts.")
    if votes:
        last = pairs[len(votes) - 1]
        st.markdown(
            f"{words.tally(votes, scheme)} In the pair before, {'A' if _float_first(scheme, last) else 'B'} was float."
        )
        st.button("Vote again from the start", on_click=votes.clear, key="votes_again")
    controls.end()


def _ballot(lab: Lab, found: Answers, scheme: str, place: int, votes: list[str]) -> None:
    texts = [lab.decode.all(wrote[place]) for wrote in (found.wrote, found.wrote_hat[scheme])]
    sides = [(words.FLOAT, texts[0]), (words.SCHEME, texts[1])]
    if not _float_first(scheme, place):
        sides.reverse()
    at = found.parted[scheme][place]
    begins = len(prefix_of(lab.loaded.tokenizer))  # a prompt is cut from a text's middle: no marker of a beginning
    st.html(token_view.split_at(["… ", *lab.decode.all(found.prompts[place][begins:])], None))
    with st.grid(2, min_column_width=380, border=True):
        for letter, (_, shown) in zip("AB", sides, strict=True):
            with st.container():
                st.markdown(f"**{letter}**")
                st.html(token_view.split_at(shown, at))
    with st.container(horizontal=True):
        for letter, (who, _) in zip("AB", sides, strict=True):
            st.button(f"{letter} is better", on_click=votes.append, args=(who,), key=f"vote_{letter}")
        st.button("No difference", on_click=votes.append, args=(words.NEITHER,), key="vote_none")
    st.caption(f"Pair {len(votes) + 1} of those that part; {short_label(scheme)} is one of the two.")


def _float_first(scheme: str, place: int) -> bool:
    """Whether float is A: the same at every look, and not to be guessed."""
    return random.Random(f"{scheme} {place}").random() < 0.5
