"""Links from a scheme to the page that lets one leave with it."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from ui import frame

PATH = "pages/11_Take_it_with_you.py"


def take_links(schemes: Mapping[str, str]) -> None:
    """A row of links, name to the text of a scheme or plan; nothing for none."""
    if not schemes:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**Take it with you**")
        for label, text in schemes.items():
            frame.link(label, PATH, {"scheme": text})
