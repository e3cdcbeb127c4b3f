"""GPTQ on a real tile: how much of rounding's loss is left?"""

from __future__ import annotations

from quantcore.lab.lab import Lab
from quantcore.lab.specimens import FEW_TOKENS
from quantcore.studies.gptq_steps import TileSteps, tile_group
from ui.components.column_player import column_player
from ui.course.guess import Number
from ui.course.scene import Reveal, Scene, Shown, Specimen
from ui.course.scenes.s11_two_weights import layer_of
from ui.course.stage import short
from ui.words.gptq import percent

BITS = 3
HEIGHT = 470


def tile_of(lab: Lab, layer: str) -> TileSteps:
    group = tile_group(lab.layers()[layer][1])
    return lab.gptq_tile(layer, f"w:int{BITS}/group{group},gptq", True, FEW_TOKENS)


def find(lab: Lab) -> Specimen:
    layer = layer_of(lab)
    steps = tile_of(lab, layer)
    said = (
        f"{len(steps.rows)} outputs and {len(steps.columns)} inputs of {short(layer)}, those inputs that go together "
        f"most. In int{BITS}, rounding each weight to nearest changes the tile's output by a certain loss. GPTQ goes "
        "column by column, and after each rounding pushes the error to the columns on its right. How much of that loss "
        "is left in the end?"
    )
    guess = Number("%", 0, 130, 1, near=5, name="GPTQ's loss, % of rounding's (100: no gain)")
    return Specimen(said, guess, of=layer)


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer: str = found.of
    steps = tile_of(lab, layer)
    rtn = float(steps.rtn_loss[-1]) or 1.0
    left = 100 * float(steps.loss[-1]) / rtn
    power = float(steps.original.square().sum())
    wrong, wrong_rtn = (float((steps.original - hat).square().sum()) / power for hat in (steps.quantized, steps.rtn))
    why = (
        "Play it: each rounding adds to the loss, each push takes some of it back, because inputs that go together can "
        "stand in for one another. The last columns have nobody left to lean on."
    )
    how = "err **more**" if wrong > wrong_rtn else "do not err more"
    twist = (
        f"The weights themselves {how}: {percent(wrong)} of their power against {percent(wrong_rtn)} by rounding. GPTQ "
        "does not put weights right, it makes errors cancel."
    )
    answer = f"**{left:.0f}%** is left."

    def draw(key: str) -> None:
        column_player(steps, key=key, alt=f"GPTQ's loss ends at {left:.0f}% of rounding's", compact=True)

    shown, more = Shown(draw, answer.replace("*", ""), HEIGHT), ("pages/6_GPTQ_step_by_step.py", {"layer": layer})
    return Reveal(f"{min(left, 130.0):.4g}", answer, why, (shown,), twist, more=more)


SCENE = Scene(
    "tile",
    "GPTQ on a real tile",
    "How much of rounding's loss is left?",
    find,
    reveal,
    slow="What GPTQ learns from: the inputs of one layer",
    slow_find=True,
)
