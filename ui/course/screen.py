"""One scene on one screen: on the left the question, the guess and why, on the right the picture.

Nothing scrolls at 1280 x 720; on larger screens type and pictures are larger; on a phone the columns stand under each
other. Who may move on, and what becomes of a guess, is the business of who calls: `alone`, or a class's presenter and
followers.
"""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from quantcore.lab.lab import Lab
from ui.components.chart import chart
from ui.course.controls import ask_for, bars
from ui.course.guess import Guess, Number, Rows
from ui.course.scene import Reveal, Scene, Shown, Specimen
from ui.course.stage import marks

STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 0.5rem 2.2rem 1rem; max-width: 1560px; }
[data-testid="stHeader"], [data-testid="stHeader"] * { pointer-events: none; }
[data-testid="stHeader"] { background: none; }
[data-testid="stHeader"] button, [data-testid="stHeader"] button * { pointer-events: auto; }
[data-testid="stStatusWidget"] { display: none; }
[data-testid="stMain"] { --lab-tall: 0px; --lab-type: 0px; }  /* what the window has more than a scene needs */
@media (min-width: 1100px) { [data-testid="stMain"] { --lab-tall: clamp(0px, 100vh - 720px, 500px);
  --lab-type: clamp(0px, min(100vh - 720px, (100vw - 1280px) * 0.6) * 0.02, 8px); } }
[data-testid="stMain"] h1 { font-size: calc(2rem + 2 * var(--lab-type)); padding: 0.1rem 0 0.3rem; }
.st-key-scene p, .st-key-scene li { font-size: calc(1.14rem + var(--lab-type)); line-height: 1.42; }
.st-key-scene [data-testid="stBaseButton-primary"]:disabled { opacity: 0.45; }
.st-key-answer p { font-size: calc(1.32rem + var(--lab-type)); line-height: 1.35; }
.st-key-twist p { font-size: calc(1.06rem + var(--lab-type)); }
[class*="st-key-course_to_"] button { min-height: 2.1rem; padding: 0.1rem 0; }
.st-key-course_keys { position: absolute; width: 1px; }  /* nothing to see */
.st-key-course_top { min-height: 2.6rem; padding: 0 2.2rem; }
.st-key-before { max-width: calc(56rem + 40 * var(--lab-type)); }
.st-key-before p { font-size: calc(1.3rem + var(--lab-type)); line-height: 1.5; }
.course-progress { display: flex; gap: 4px; align-items: center; width: 100%; }
.course-progress i { flex: 1 1 0; height: 9px; border-radius: 5px; background: currentColor; opacity: 0.14; }
.course-progress i.past { opacity: 0.42; }
.course-progress i.now { opacity: 0.9; }
.course-progress b { white-space: nowrap; font-weight: 600; padding-left: 0.7rem; }
.st-key-course_count p { font-size: 1.25rem; white-space: nowrap; }
.course-code { font-size: 1.5rem; font-weight: 700; letter-spacing: 0.12em; }
@media (max-width: 1100px) { .course-progress i { display: none; } .course-progress b { padding: 0; } }
@media (max-width: 640px) { [data-testid="stMainBlockContainer"] { padding: 2.6rem 1rem 1rem; }
  .st-key-course_top { padding: 0; } }
</style>"""
LEFT, RIGHT = 5, 8
RIGHT_WORDS, WRONG_WORDS = ":green[**✓**]", ":orange[**≠**]"
Marked = tuple[str, float | None, float | None]  # an axis, the guess on it, the truth
NOT_MARKED: Marked = ("", None, None)


def progress(place: int, titles: list[str]) -> None:
    """A line of as many parts as there are scenes, and where we are."""
    kinds = ["past"] * place + ["now"] + ["next"] * (len(titles) - place - 1)
    parts = "".join(f'<i class="{kind}"></i>' for kind in kinds)
    st.html(
        f'<div class="course-progress" role="progressbar" aria-label="Scene" aria-valuemin="1" '
        f'aria-valuemax="{len(titles)}" aria-valuenow="{place + 1}">{parts}'
        f"<b>{place + 1} of {len(titles)}: {titles[place]}</b></div>"
    )


def guess_part(scene: Scene, specimen: Specimen, start: str | None, key: str) -> str | None:
    """The specimen and the control; the guess."""
    st.markdown(specimen.said)
    return ask_for(specimen.guess, scene.ask, start, key)


def answer_part(lab: Lab, scene: Scene, found: Specimen, text: str | None, shown: Reveal, asked: bool = True) -> None:
    """The verdict, the truth, why, and what the rule of thumb does not say; `asked`: the specimen can be read again."""
    guess = found.guess
    with st.container(key="answer", gap="xsmall"):
        if text is not None:
            right = guess.right(text, shown.truth)
            st.markdown(f"{RIGHT_WORDS if right else WRONG_WORDS} {guess.verdict(text, shown.truth)}")
            if scene.of_guess is not None:
                st.markdown(scene.of_guess(lab, text))
        st.markdown(shown.answer)
    st.markdown(shown.why)
    if shown.twist:
        with st.container(key="twist", border=True):
            st.markdown(f"**But:** {shown.twist}")
    if asked:
        with st.expander("What was asked"):
            st.markdown(found.said)


def pictures(many: tuple[Shown, ...], key: str, marked: Marked = NOT_MARKED) -> None:
    """The pictures; on the first one, where it has an axis for it, the guess and the truth."""
    axis, guess, truth = marked
    for place, one in enumerate(many):
        here = f"{key}_{place}"
        if isinstance(one.picture, go.Figure):
            over = marks(one.picture, axis, guess, truth) if axis and place == 0 else None
            chart(one.picture, key=here, alt=one.alt, height=one.height, over=over, grow=round(1 / len(many), 3))
        else:
            one.picture(here)


def class_bars(guess: Guess, texts: list[str], truth: str, key: str) -> None:
    """All guesses of a class over the truth."""
    if not texts:
        st.caption("Nobody in the class has guessed.")
        return
    right = sum(guess.right(text, truth) for text in texts)
    said = f"{len(texts)} {'guess' if len(texts) == 1 else 'guesses'}, {right} of them right"
    st.markdown(f"**{said}**; green is the truth.")
    height = min(174, 34 + 22 * len(guess.tally(texts, truth).labels)) if isinstance(guess, Rows) else 145
    chart(bars(guess, tuple(texts), truth, height), key=f"class_{key}", alt=said, height=height)


def marked(guess: Guess, text: str | None, shown: Reveal) -> Marked:
    """Where to mark a number that was guessed."""
    if not isinstance(guess, Number):
        return NOT_MARKED
    return shown.mark, None if text is None else float(text), float(shown.truth)
