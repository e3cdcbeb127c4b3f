"""A page with every component once, for the tests in test_components.py and test_browser_components.py."""

import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import streamlit as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from ui.components.chart import Hand, chart
from ui.components.number_line import Line, number_line
from ui.components.palette import BLUE, DIVERGING, SEQUENTIAL

st.set_page_config(layout="wide")
outlier = st.slider("outlier", 1, 9, 3, key="outlier")
st.text(f"outlier is {outlier}")

bars = go.Figure(go.Bar(x=[1, 2, 3], y=[4, 5, outlier], customdata=["a", "b", "c"], marker_color=BLUE, name="absmax"))
bars.update_layout(title="absmax by channel")
point = chart(bars, key="bars", alt=f"channel 3 has absmax {outlier}", height=260, on_click=True)
st.text(f"clicked {point['customdata']} in bar {point['point']}" if point else "nothing clicked")

error = np.outer(np.linspace(-1, 1, 8), np.ones(12)).astype(np.float32) * outlier
heat = go.Figure(go.Heatmap(z=error, zmid=0, colorscale=DIVERGING))
frames = [go.Figure(go.Heatmap(z=error * times), {"title": f"errors x {times}"}) for times in (1, 2, 3)]
hand = Hand("times", ["1", "2", "3"], 0, frames)
let_go = chart(heat, key="heat", alt=f"errors lie within -{outlier}..{outlier}", height=240, hand=hand)
st.text(f"let go at {let_go['step']}" if let_go else "not held")

surfaces = st.query_params.get("surfaces")  # slow where WebGL is done in software
if surfaces:
    wall = np.ones((8, 12), dtype=np.float32)
    wall[:, 4] = outlier
    for column, key in zip(st.columns(2), ("before", "after"), strict=True):
        with column:
            surface = go.Figure(go.Surface(z=wall if key == "before" else wall / 2, colorscale=SEQUENTIAL))
            chart(
                surface,
                key=key,
                alt=f"channel 4 is a wall {outlier} high",
                height=300,
                link="xw" if surfaces == "linked" else None,
            )

integers = range(-8, 8)
halves = [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]  # fp4 e2m1; the codes 0 0.5 | 1 1.5 | 2 3 | 4 6
setting = number_line(
    [
        Line("int4", "blue", integers, [code % 2 == 0 for code in integers], scale=0.1),
        Line("int4 asym", "purple", integers, [code % 2 == 0 for code in integers], scale=0.1, zero_point=-3),
        Line("fp4", "vermilion", halves, [i % 2 == 1 for i in range(15)], scale=0.1, integer=False),
    ],
    key="grid",
    lo=-1.0,
    hi=1.0,
    x=0.437,
    counts=[1, 0, 4, 9, 0, 1],
    edges=[-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75],
    label="six bins",
)
st.text(f"server has x={setting.x:.6g} scales={[round(s, 6) for s in setting.scales]} zeros={setting.zero_points}")
