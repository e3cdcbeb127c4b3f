"""How far rounding luck alone moves schemes, on request: each is quantized and read anew with its scales moved."""

from __future__ import annotations

import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.measure.luck import JITTERS, Spread
from ui.answers import answer

BUTTON = f"Measure rounding luck too: each scheme {JITTERS} times more"


def luck_part(lab: Lab, schemes: tuple[str, ...], reading: str, calibration: str) -> dict[str, Spread] | None:
    """The spread of each scheme; None until it is measured: a button stands here, then the job's progress."""
    with st.container():
        title = f"Rounding luck of {len(schemes)} scheme{'s' * (len(schemes) > 1)}"
        asked = schemes, reading, calibration
        return answer(title, lab, Lab.luck, *asked, start=False, button=BUTTON).whole
