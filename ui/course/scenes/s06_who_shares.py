"""Who shares a scale? One for all, one a row, one a group: how many dB?"""

from __future__ import annotations

from quantcore.lab.lab import Lab
from quantcore.numbers.granularity import largest_divisor
from quantcore.studies.granularity import GranularityRow
from ui.components.wipe import wipe
from ui.course.guess import Number
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import short

FORMAT, LARGEST = "int4", 128
HEIGHT = 430


def find(lab: Lab) -> Specimen | Missing:
    best = lab.uneven()
    if best is None:
        return Missing("This model has no Linear that a scheme quantizes, so nobody shares a scale.")
    rows, columns = lab.layers()[best.layer]
    whole = lab.grain.removeprefix("group")  # what fits all layers, else this one
    group = int(whole) if whole.isdigit() else largest_divisor(columns, LARGEST)
    said = (
        f"{short(best.layer).capitalize()}, {rows:,} x {columns:,} weights in int4: of this model's {best.of} layers "
        f"its rows differ most (the largest reaches {best.figure:.0f} times as far as the median one). First one "
        f"scale for all of them; then one for each of the {rows:,} rows; then one for every {group} weights of a "
        "row. How much better is the last than the first? (6 dB: half the error.)"
    )
    guess = Number("dB", 0, 40, 0.5, near=2, name="gain in SQNR, one scale for all -> groups")
    return Specimen(said, guess, of=(best.layer, group))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, group = found.of
    grains = ("tensor", "channel", f"group{group}")  # the table of the usual groups may not hold this one
    tensor, channel, groups = (lab.granularity(layer, f"w:{FORMAT}/{grain}").chosen for grain in grains)
    gain = groups.weight_sqnr_db - tensor.weight_sqnr_db
    why = (
        f"One scale for all keeps {tensor.weight_sqnr_db:z.1f} dB, one a row {channel.weight_sqnr_db:.1f}, one a group "
        f"{groups.weight_sqnr_db:.1f}. A tile is rounded on steps that its own largest weight stretches: the smaller "
        "the tile, the fewer weights pay for it. Wipe: dark is a small error."
    )
    better = channel.weight_sqnr_db - tensor.weight_sqnr_db
    twist = f"Of the {gain:z.1f} dB the step to rows brings {better:.1f}: groups are the smaller step here."
    if better < gain / 2:
        twist = f"Of the {gain:z.1f} dB the step to rows brings {better:.1f}: here groups do most of it."

    def draw(key: str) -> None:
        rows = named(tensor, channel, groups)
        studies = [(name, lab.granularity(layer, f"w:{FORMAT}/{row.granularity}")) for name, row in rows]
        maps = [(f"{name}, {study.chosen.weight_sqnr_db:z.1f} dB", study.error.values) for name, study in studies]
        wipe(maps, key=key, alt=why, axes="outputs down, inputs across", unit="of error, log", height=HEIGHT)

    answer = f"**{gain:z.1f} dB**: the error shrinks to {10 ** (-gain / 20):.0%}."
    more = "pages/2_Granularity.py", {"layer": layer, "format": FORMAT, "grain": "group", "group": group}
    return Reveal(f"{min(gain, 40.0):.1f}", answer, why, (Shown(draw, why, HEIGHT),), twist, more=more)


def named(tensor: GranularityRow, channel: GranularityRow, groups: GranularityRow) -> list[tuple[str, GranularityRow]]:
    return [("one scale", tensor), ("a row", channel), ("a group", groups)]


SCENE = Scene(
    "who_shares", "Who shares a scale", "How many dB, from one scale for all to a scale a group?", find, reveal
)
