"""The lab: everything that can be asked of one model on one device, a method a question.

    lab = Lab("reference")
    lab.layer_study("model.layers.1.mlp.down_proj", "w:int4/group128")
    lab.duel(["W4A16", "W8A8"])

Arguments are text and numbers: a layer's name, a scheme or plan, a reading (`quantcore.text.reading`); answers are
frozen reports. Browser, command line and notebooks all ask here. What takes long is kept: in memory by the lab, and
what was measured on a whole model in the store.
"""

from __future__ import annotations

from quantcore.lab import frozen_ranges, grids, hardware, layers, outliers, start, take, whole
from quantcore.lab.bench import Bench


class Lab(Bench):
    """A `Bench` with questions; each is a function of the room's other files, which also says what it answers."""

    # the model, and what it writes
    contents = start.contents
    likeliest = start.likeliest
    quantized_bytes = start.quantized_bytes
    write_on = whole.write_on

    # one weight, or what enters a layer
    row = start.row
    value_counts = grids.value_counts
    fitted_grid = grids.fitted_grid
    format_use = grids.format_use
    granularity = grids.granularity
    coarsest_error = grids.coarsest_error
    outlier_map = outliers.outlier_map
    channels = outliers.channels
    payers = outliers.payers
    remedies = outliers.remedies
    remedy = outliers.remedy
    ranges = frozen_ranges.ranges
    clips = frozen_ranges.clips
    dynamic_cost = frozen_ranges.dynamic_cost

    # one layer
    layer_study = layers.layer_study
    gptq_tile = layers.gptq_tile
    gptq_order = layers.gptq_order
    gptq_map = layers.gptq_map
    gptq_cost = layers.gptq_cost

    # the whole model
    duel = whole.duel
    kept_duel = whole.kept_duel
    kept_schemes = whole.kept_schemes
    rule = whole.rule
    kept_rule = whole.kept_rule
    sensitivity = whole.sensitivity
    kept_sensitivity = whole.kept_sensitivity
    plan = whole.plan
    plan_trail = whole.plan_trail

    # leaving with it
    promise = take.promise
    export = take.export
    read_back = take.read_back
    export_folder = take.export_folder
    facts = take.facts

    # hardware
    speed = hardware.speed
    footprint = hardware.footprint_of
    shape_named = hardware.shape_named
