"""A report on a page: one HTML file that opens anywhere, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import streamlit as st

from quantcore.export.plain import plain
from quantcore.lab.report import Document
from quantcore.lab.report_html import to_html


def downloads(document: Callable[[], Document], name: str) -> None:
    """Buttons for the report; it is made when one is pressed."""
    files = {
        "HTML": (lambda: to_html(document()), f"{name}.html", "text/html"),
        "JSON": (lambda: json.dumps(plain(document()), indent=2), f"{name}.json", "application/json"),
    }
    with st.container(horizontal=True):
        for kind, (data, file, mime) in files.items():
            st.download_button(f"Report as {kind}", data, file, mime, on_click="ignore", key=file)
