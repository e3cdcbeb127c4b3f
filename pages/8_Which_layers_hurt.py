"""Which layers hurt? Each layer quantized alone; then a budget of bits, spent where it helps most, and measured."""

import pandas as pd
import streamlit as st

from quantcore.measure.duel import Duel, duel, short_label
from quantcore.measure.sensitivity import Sensitivity, plan_for_budget
from quantcore.model.linears import linears
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.plans import kept_sensitivity
from ui import cached, frame, job_view, python_code
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import sensitivity as figures
from ui.scheme_builder import GROUPS, fitting_group, follow_default
from ui.take_link import take_links

PATH = "pages/8_Which_layers_hurt.py"
BITS = (2, 3, 4, 8)
TOKENS = (640, 1280, 2560, 5120)
Costs = dict[str, float]  # KL by layer
ALONE, ALL_BUT = "this layer alone", "everything but it"

LOOK_FOR = (
    "Each layer is quantized alone, all others stay float, and the KL of the next-token distributions says what that "
    "costs. A few layers pay for most of it: give those more bits, and the model loses less at the same size."
)
TRIES = [
    ("3 bits for W3's price", {"bits": 3, "budget": 3.125}),
    ("2 bits: who breaks?", {"bits": 2, "budget": 2.5}),
    ("everything but it", {"bits": 3, "way": ALL_BUT}),
]


def measured(
    choice: controls.Choice, schemes: tuple[str, ...], limit: int, all_but: bool
) -> Sensitivity | Costs | None:
    """The sensitivities, from the store or from a job; while it runs, the costs of one scheme's layers so far."""
    place = (choice.model_id, choice.device)
    found = cached.kept_sensitivity(*place, "evaluation/all", limit, schemes, all_but)
    if found is not None:
        return found
    loaded, store, hashed = cached.model(*place), cached.store(), cached.hash_of(*place)
    texts = cached.duel_texts(*place, "evaluation/all", limit)

    def work(tell: job_view.Teller) -> Sensitivity:
        return kept_sensitivity(
            loaded,
            schemes,
            *texts,
            store,
            all_but=all_but,
            hashed=hashed,
            progress=tell,
            so_far=lambda _, costs: tell.show(costs),
        )

    key = f"sensitivity|{'|'.join(place)}|{limit}|{all_but}|{'|'.join(schemes)}"
    title = f"{' and '.join(short_label(one) for one in schemes)}, layer by layer"
    result: Sensitivity | None = job_view.result_of(choice.device, key, title, work)
    return job_view.so_far(key) if result is None else result


def beside_rival(choice: controls.Choice, texts: tuple[str, ...], limit: int) -> Duel | None:
    """The plan and the uniform scheme next to it, measured on the same tokens."""
    place = (choice.model_id, choice.device)
    found = cached.kept_duel(*place, "evaluation/all", limit, texts)
    if found is not None:
        return found
    loaded, store, hashed = cached.model(*place), cached.store(), cached.hash_of(*place)
    tokens = cached.duel_texts(*place, "evaluation/all", limit)
    return job_view.result_of(
        choice.device,
        f"duel|{'|'.join(place)}|evaluation/all|{limit}|{'|'.join(texts)}",
        "The plan, measured",
        lambda tell: duel(loaded, texts, *tokens, store, hashed, tell),
        place="plan",
        patience_s=0,
    )


def code(
    choice: controls.Choice, scheme: str, all_but: bool, schemes: tuple[str, ...], budget: float, limit: int
) -> str:
    return python_code.program(f"""\
{python_code.texts(choice, "evaluation/all", limit)}store = Store()
found = kept_sensitivity(lm, [{scheme!r}], tokens, calibration, store, all_but={all_but})
costs = found.{"all_but" if all_but else "alone"}
print(*sorted(((kl, layer) for (layer, _), kl in costs.items()), reverse=True)[:5], found.whole, sep="\\n")

uniform = {list(schemes)!r}
every = kept_sensitivity(lm, uniform, tokens, calibration, store)
chosen = plan_for_budget(every, {budget})
report = duel(lm, [*uniform, str(chosen.plan)], tokens, calibration, store).reports[str(chosen.plan)]
print(f"{{chosen.bits_per_weight:.3f}} bits: KL {{chosen.predicted_kl:.4g}} predicted, {{report.kl:.4g}} measured")
""")


def ranking_words(costs: dict[str, float], whole: float, way: str) -> str:
    worst = sorted(costs, key=lambda layer: -costs[layer])
    total = sum(costs.values())
    few = worst[: max(1, len(worst) // 10)]
    share = sum(costs[layer] for layer in few) / total if total else 0.0
    if way == ALL_BUT:
        return (
            f"With all layers quantized the KL is **{whole:.4g}** nats; leaving `{worst[-1]}` float helps most and "
            f"brings it to **{costs[worst[-1]]:.4g}**."
        )
    return (
        f"`{worst[0]}` hurts most, **{costs[worst[0]]:.3g}** nats alone; `{worst[-1]}` least, {costs[worst[-1]]:.2g}. "
        f"The worst {len(few)} of {len(worst)} layers hold **{share:.0%}** of the sum. The sum over all layers is "
        f"{total:.4g}, the whole model's KL {whole:.4g} nats: errors of layers "
        f"{'nearly add up' if abs(total / whole - 1) < 0.25 else 'do not simply add up'}."
    )


def so_far_words(costs: Costs, count: int, way: str) -> str:
    if way == ALL_BUT:
        most = min(costs, key=lambda layer: costs[layer])
        return f"**So far**, {len(costs)} of {count} layers: leaving `{most}` float brings the KL down the most."
    most = max(costs, key=lambda layer: costs[layer])
    return f"**So far**, {len(costs)} of {count} layers: `{most}` hurts most, {costs[most]:.3g} nats alone."


def plan_part(choice: controls.Choice, schemes: tuple[str, ...], budget: float, limit: int) -> None:
    with st.container():
        found = measured(choice, schemes, limit, False)
    if not isinstance(found, Sensitivity):
        return
    uniform = {one: found.mean_bits(dict.fromkeys(found.layers, one)) for one in schemes}
    chosen = plan_for_budget(found, max(budget + 1e-6, min(uniform.values())))
    text = str(chosen.plan)
    rivals = [one for one in sorted(uniform, key=lambda one: uniform[one]) if uniform[one] <= budget + 1e-6]
    with st.container():
        duel_found = beside_rival(choice, tuple(dict.fromkeys([text, *rivals[-1:]])), limit)
    kl = None if duel_found is None else duel_found.reports[text].kl
    trail = cached.plan_trail(choice.model_id, choice.device, "evaluation/all", limit, schemes)
    words = [
        f"The plan takes **{chosen.bits_per_weight:.3f}** bits a weight; predicted KL (sum of the layers' own) "
        f"**{chosen.predicted_kl:.4g}** nats" + (f", measured **{kl:.4g}**." if kl is not None else ".")
    ]
    if duel_found is not None and rivals and rivals[-1] != text:
        rival = rivals[-1]
        difference = duel_found.kl_difference(text, rival)
        how = "beyond chance" if difference.significant else "within chance"
        words.append(
            f"{short_label(rival)} for all takes {uniform[rival]:.3f} bits and has KL "
            f"{duel_found.reports[rival].kl:.4g}: the plan's is {difference.value:+.4g} ({how}; 95%: "
            f"{difference.lo:+.3g} to {difference.hi:+.3g})."
        )
    st.markdown(" ".join(words))
    with st.grid(2, min_column_width=430):
        chart(figures.plan_map(chosen.choice, found), key="plan_map", alt=words[0].replace("*", ""))
        measured_at = {one: (uniform[one], found.whole[one]) for one in schemes}
        here = None if kl is None else (chosen.bits_per_weight, kl)
        chart(figures.budgets(measured_at, trail, here), key="budgets", alt=" ".join(words).replace("*", ""))
    st.markdown("The plan as text, for the duel, the command line, a recipe:")
    st.code(text, language=None, wrap_lines=True)
    frame.link("Open it in the duel", "pages/7_Scheme_duel.py", {"duel": "\n".join([text, *rivals[-1:]])})
    take_links({"the plan": text})
    rows = [
        {
            "layer": layer,
            "weights": found.weights[layer],
            "plan": chosen.choice[layer],
            **{f"KL alone, {short_label(one)}": found.alone[layer, one] for one in schemes},
        }
        for layer in found.layers
    ]
    frame.numbers(pd.DataFrame(rows), "layers")


def ranking_part(found: Sensitivity | Costs, scheme: str, way: str, layers: list[str]) -> None:
    """The map and the ranking; of a run under way, of the layers measured by then."""
    what = "KL" if way == ALONE else "KL that remains"
    if isinstance(found, Sensitivity):
        layers = list(found.layers)
        costs = {layer: (found.alone if way == ALONE else found.all_but)[layer, scheme] for layer in layers}
        words = ranking_words(costs, found.whole[scheme], way)
    else:
        costs, words = found, so_far_words(found, len(layers), way)
    st.markdown(words)
    with st.grid(2, min_column_width=430):
        title = f"{Scheme.parse(scheme).label}: {way}"
        chart(figures.heat_map(costs, title, what, layers), key="map", alt=words.replace("*", ""))
        chart(figures.ranking(costs, "Ranked; a colour is a module", what), key="ranking", alt=words.replace("*", ""))
    frame.numbers(pd.DataFrame([{"layer": one, "scheme": scheme, what: kl} for one, kl in costs.items()]), "layers")


def body(choice: controls.Choice) -> None:
    shapes = cached.layers(choice.model_id, choice.device)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        bits = controls.pick("Bits per weight", BITS, 3, "bits")
        group = controls.pick("Group", GROUPS, follow_default("group", fitting_group(shapes)), "group")
        way = controls.pick("Quantized is", [ALONE, ALL_BUT], ALONE, "way")
        limit = controls.pick("Tokens", TOKENS, TOKENS[0], "tokens")
    scheme = f"w:int{bits}/group{group}"
    every = tuple(str(Plan.parse(f"w:int{one}/group{group}")) for one in BITS)
    ranked = st.container()
    st.subheader("Spend a budget")
    budget = controls.slide("Bits per weight, scales counted", 2.125, 8.5, 4.125, "budget", 0.005, format="%.3f")
    frame.python(code(choice, scheme, way == ALL_BUT, every, budget, limit))
    with ranked:
        job_view.kept_notice()
        with st.container():
            found = measured(choice, (scheme,), limit, way == ALL_BUT)
        if found is not None:
            names = list(linears(cached.model(choice.model_id, choice.device).model))
            ranking_part(found, scheme, way, [name for name in names if not Scheme.parse(scheme).skips(name)])
    if isinstance(found, Sensitivity):
        plan_part(choice, every, budget, limit)


frame.show("Which layers hurt?", LOOK_FOR, TRIES, PATH, body)
