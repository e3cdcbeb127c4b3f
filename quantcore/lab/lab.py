"""The lab: everything that can be asked of one model on one device, a method a question.

    lab = Lab("reference")
    lab.layer_study("model.layers.1.mlp.down_proj", "w:int4/group128")
    lab.duel(["W4A16", "W8A8"])

Arguments are text and numbers: a layer's name, a scheme or plan, a reading (`quantcore.text.reading`); answers are
frozen reports. Browser, command line and notebooks all ask here. What takes long is kept: in memory by the lab, and
what was measured on a whole model in the store.
"""

from __future__ import annotations

from quantcore.lab import (
    advice,
    answers,
    context,
    frozen_ranges,
    grids,
    hardware,
    history,
    layer_costs,
    layers,
    mixture,
    outliers,
    quick,
    retrieval,
    specimens,
    start,
    take,
    whole,
)
from quantcore.lab.bench import Bench


class Beside(Bench):
    """What pictures and pages need beside the answers: ends of axes, names, and long answers that are kept already."""

    value_counts = grids.value_counts
    value_range = grids.value_range
    fitted_grid = grids.fitted_grid
    coarsest_error = grids.coarsest_error
    weight_limit = grids.weight_limit
    large_value = grids.large_value
    quantized_bytes = start.quantized_bytes
    loud_channels = layers.loud_channels
    kept_duel = whole.kept_duel
    kept_schemes = whole.kept_schemes
    kept_luck = whole.kept_luck
    known_luck = whole.known_luck
    kept_rule = whole.kept_rule
    kept_context_lens = context.kept_context_lens
    kept_retrieval = retrieval.kept_retrieval
    kept_sensitivity = layer_costs.kept_sensitivity
    kept_probed_plan = layer_costs.kept_probed_plan
    kept_queue = history.kept_queue
    kept_checkpoint = take.kept_checkpoint
    plan_trail = layer_costs.plan_trail
    quick_plan = quick.quick_plan
    bits_of_all = layer_costs.bits_of_all
    planned_weights = layer_costs.planned_weights
    reading_of = history.reading_of
    unfinished = history.unfinished
    note_queue = history.note_queue
    short_name = take.short_name
    checkpoint_folder = take.checkpoint_folder
    facts = take.facts
    shape_named = hardware.shape_named
    machine_named = advice.machine_named
    candidate_bytes = advice.candidate_bytes
    uniform_ms = advice.uniform_ms
    trail_in_time = advice.trail_in_time
    wall = specimens.wall
    giant = specimens.giant
    one_sided = specimens.one_sided
    uneven = specimens.uneven
    few = specimens.few
    sizes = specimens.sizes
    input_error = specimens.input_error
    off_by = specimens.off_by
    pair = specimens.pair


class Lab(Beside):
    """A bench with questions; each is a function of the room's other files, which also says what it answers."""

    # the model, and what it writes
    contents = start.contents
    likeliest = start.likeliest
    written_next = start.written_next
    write_on = whole.write_on

    # one weight, or what enters a layer
    row = start.row
    format_use = grids.format_use
    coded_block = grids.coded_block
    granularity = grids.granularity
    outlier_map = outliers.outlier_map
    layer_with_walls = outliers.layer_with_walls
    channels = outliers.channels
    cache_sides = outliers.cache_sides
    payers = outliers.payers
    remedies = outliers.remedies
    remedy = outliers.remedy
    treatment = outliers.treatment
    treated_layer = outliers.treated_layer
    smoothing = outliers.smoothing
    ranges = frozen_ranges.ranges
    clips = frozen_ranges.clips
    cut = specimens.cut
    dynamic_cost = frozen_ranges.dynamic_cost

    # one layer
    layer_study = layers.layer_study
    gptq_tile = layers.gptq_tile
    gptq_order = layers.gptq_order
    gptq_map = layers.gptq_map
    gptq_drift = layers.gptq_drift
    gptq_cost = layers.gptq_cost
    by_hand = specimens.by_hand

    # the whole model
    duel = whole.duel
    luck = whole.luck
    answers = answers.answers
    context_lens = context.context_lens
    retrieval = retrieval.retrieval
    evaluate = whole.evaluate
    rule = whole.rule
    sensitivity = layer_costs.sensitivity
    plan = layer_costs.plan
    probed_plan = layer_costs.probed_plan
    measured = history.measured
    queue = history.queue
    experts = mixture.experts

    # leaving with it
    promise = take.promise
    recipe = take.recipe
    checkpoint = take.checkpoint
    export = take.export
    read_back = take.read_back

    # what to ship
    advise = advice.advise
    tried = advice.tried
    plan_in_time = advice.plan_in_time
    require_time = advice.require_time

    # hardware
    speed = hardware.speed
    footprint = hardware.footprint
