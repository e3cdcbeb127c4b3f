"""Best practice as data: eight rules, each a scheme with its challengers, and a run that says whether it holds here.

    for rule in best_practice():
        result = rule.test(lm, tokens, calibration, Store())
        print(rule.text, result.verdict, [duel.kl for duel in result.bouts])

The verdict is about the loaded model and the text at hand, by the paired difference of the mean KL over windows, its
p corrected for as many challengers (`told_apart`). A rule holds if its scheme is better than every challenger beyond
the chance of the text and of rounding luck; it does not hold here if one challenger is better beyond both; where luck
was not measured it leads or trails by the text alone; else there is no significant difference. A challenger that cannot
be built is answered with the engine's reason; where none can, the rule was not challenged. A group is the largest that
fits the model (`fitting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from quantcore.measure.duel import Duel, duel
from quantcore.measure.luck import Spread
from quantcore.measure.store import Store
from quantcore.measure.told_apart import BY_TEXT, Apart, apart_of
from quantcore.model.held import held
from quantcore.model.linears import head_of, linear_shapes
from quantcore.model.loading import LoadedModel
from quantcore.numbers.granularity import PerGroup
from quantcore.pipeline.calibration import Progress
from quantcore.scheme.fitting import GROUPS, Shapes, fitting_grain, plan_for, require_fits, sorted_out, why_grain

GROUP = "{group}"  # in a challenger: the model's own group
HOLDS, FAILS, EQUAL = "holds", "does not hold here", "no significant difference"
LEADS, TRAILS = f"leads {BY_TEXT}", f"trails {BY_TEXT}"
UNCHALLENGED = "not challenged"


@dataclass(frozen=True)
class Bout:
    """The rule's scheme against one challenger. `apart`: KL of the rule's minus the challenger's, below 0 where the
    rule is better; None where the challenger cannot be built, and `refused` says why."""

    challenger: str
    apart: Apart | None
    refused: str | None = None


@dataclass(frozen=True)
class RuleResult:
    """The verdict, the bouts that it rests on, the whole duel, and the rule's scheme in full."""

    verdict: str
    bouts: tuple[Bout, ...]
    duel: Duel
    scheme: str

    def with_luck(self, spreads: Mapping[str, Spread]) -> RuleResult:
        """The same duel judged anew with what is known of its schemes' rounding luck."""
        aparts = apart_of(self.duel, [(self.scheme, one.challenger) for one in self.bouts if one.apart], spreads)
        bouts = tuple(
            replace(one, apart=aparts[self.scheme, one.challenger]) if one.apart else one for one in self.bouts
        )
        return replace(self, verdict=verdict_of(bouts), bouts=bouts)


@dataclass(frozen=True)
class Rule:
    """key       its name in a link          text         the rule in words
    why          what is behind it           when_equal   what no significant difference means for the choice
    scheme       the rule's scheme           challengers  what one would do otherwise, at about the same size
    since, as_of what has changed since the rule was written down, and when that was looked up (ISO month)"""

    key: str
    text: str
    why: str
    scheme: str
    challengers: tuple[str, ...]
    when_equal: str
    since: str
    as_of: str

    def on(self, shapes: Shapes) -> Rule:
        """The rule as a model has it: what one would do otherwise has the model's own group."""
        grain = fitting_grain(shapes)
        group = str(grain) if isinstance(grain, PerGroup) else f"group{min(GROUPS)}"
        return replace(self, challengers=tuple(one.replace(GROUP, group) for one in self.challengers))

    def test(
        self,
        loaded: LoadedModel,
        tokens: Tensor,
        calibration: Tensor,
        store: Store,
        hashed: str | None = None,
        progress: Progress | None = None,
        so_far: Callable[[RuleResult], None] | None = None,
    ) -> RuleResult:
        """Run the scheme and its challengers on the model; `so_far` is called with what the windows read by then say.

        Raises: ValueError if the scheme itself cannot run on it."""
        skeleton = held(loaded).skeleton
        shapes, head = linear_shapes(skeleton), head_of(skeleton)
        mine = str(plan_for(self.scheme, shapes))
        require_fits(plan_for(self.scheme, shapes), shapes, head)
        challengers = self.on(shapes).challengers
        able, refused = sorted_out(challengers, shapes, head)
        for line in [line for line, text in able.items() if text == mine]:
            del able[line]
            refused[line] = f"on this model it is the rule's own scheme: it has {why_grain(shapes)}"

        def judged(found: Duel) -> RuleResult:
            why_not = {**refused, **found.refused}
            aparts = apart_of(found, [(mine, text) for text in able.values() if text in found.reports])
            bouts = tuple(
                Bout(line, None, why_not[line]) if line in why_not else Bout(able[line], aparts[mine, able[line]])
                for line in challengers
            )
            return RuleResult(verdict_of(bouts), bouts, found, mine)

        def read(found: Duel) -> None:
            if so_far and len(found.reports) + len(found.refused) == 1 + len(able):
                so_far(judged(found))

        return judged(duel(loaded, [mine, *able], tokens, calibration, store, hashed, progress, read))


def verdict_of(bouts: tuple[Bout, ...]) -> str:
    """What the differences say together."""
    aparts = [bout.apart for bout in bouts if bout.apart is not None]
    if not aparts:
        return UNCHALLENGED
    worse = [one for one in aparts if one.beyond and one.difference.value > 0]
    if worse:
        return FAILS if any(one.real for one in worse) else TRAILS
    if not all(one.beyond and one.difference.value < 0 for one in aparts):
        return EQUAL
    return HOLDS if all(one.real for one in aparts) else LEADS


def best_practice() -> tuple[Rule, ...]:
    """The eight rules, in the order in which the page shows them."""
    return RULES


RULES = (
    Rule(
        key="int4-groups",
        text="int4 weights: one scale for each group of inputs, of 128 where they fit.",
        why="Sixteen values are few, so a large weight must spoil only the neighbours in its group, not its whole row.",
        scheme="W4A16",
        challengers=("w:int4/channel", "w:int4/tensor"),
        when_equal="Then the coarser scales do as well, and are a little smaller.",
        since="Groups of 128 are still what W4A16 means in compressed-tensors; smaller groups of 32 come with formats "
        "whose scales have 8 bits (MXFP4, NVFP4).",
        as_of="2026-11",
    ),
    Rule(
        key="int4-gptq",
        text="int4 weights: GPTQ with activation reordering, not rounding to nearest.",
        why="GPTQ pushes each column's rounding error onto columns not yet rounded, the loudest inputs first.",
        scheme="W4A16,gptq/actorder=weight",
        challengers=("W4A16", "W4A16,gptq"),
        when_equal="Then the calibration brings nothing on this text; rounding to nearest takes seconds.",
        since="actorder=group, which needs an index at run time, is deprecated in favour of actorder=weight, which "
        "needs none.",
        as_of="2026-08",
    ),
    Rule(
        key="int8-channels",
        text="int8 weights: one scale for each output channel.",
        why="Rows differ in size; 256 values are enough within a row, and a scale a row leaves the matmul's sum whole.",
        scheme="w:int8/channel",
        challengers=("w:int8/tensor",),
        when_equal="Then the rows of this model are alike; channels still cost nothing.",
        since="Nothing: W8A8 is still per channel in compressed-tensors.",
        as_of="2026-11",
    ),
    Rule(
        key="int8-tokens",
        text="int8 activations: dynamic, one scale for each token.",
        why="Tokens differ in size by far more than 256 values can hold under one scale.",
        scheme="w:int8/channel,a:int8/token/dynamic",
        challengers=("w:int8/channel,a:int8/tensor/dynamic", "w:int8/channel,a:int8/tensor/static"),
        when_equal="Then a frozen range is as good, and quicker at run time.",
        since="Nothing: W8A8 is still dynamic per token in compressed-tensors.",
        as_of="2026-11",
    ),
    Rule(
        key="fp8-weights",
        text="fp8 weights: one scale for the whole tensor.",
        why="A floating-point format brings its own range, so small rows keep their precision under a common scale.",
        scheme="w:fp8_e4m3/tensor",
        challengers=("w:fp8_e4m3/channel",),
        when_equal="Then the one scale is enough.",
        since="Maintainers now recommend per-channel weights (FP8_DYNAMIC).",
        as_of="2026-11",
    ),
    Rule(
        key="fp8-activations",
        text="fp8 activations: static, one scale for the tensor; where dynamic, per tensor too.",
        why="The format's own range covers small values, so a recorded maximum is enough, and free at run time.",
        scheme="w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static",
        challengers=("w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/dynamic", "w:fp8_e4m3/tensor,a:fp8_e4m3/token/dynamic"),
        when_equal="Then frozen ranges do, and are the quickest.",
        since="Maintainers now recommend dynamic activations per token (FP8_DYNAMIC).",
        as_of="2026-11",
    ),
    Rule(
        key="static-tensor",
        text="Static activations: always one scale for the tensor.",
        why="A range per token cannot be recorded: tomorrow's tokens have not been seen.",
        scheme="w:int8/channel,a:int8/tensor/static",
        challengers=("w:int8/channel,a:int8/token/static", f"w:int8/channel,a:int8/{GROUP}/static"),
        when_equal="",
        since="Nothing, and nothing can.",
        as_of="2026-11",
    ),
    Rule(
        key="no-reordering",
        text="No activation reordering for anything but int4.",
        why="With 256 values the error that the order could spare is already small.",
        scheme="w:int8/channel,gptq",
        challengers=("w:int8/channel,gptq/actorder=weight",),
        when_equal="Then leave it out, as the rule says.",
        since="actorder=weight costs nothing at run time, so the reason is now only that it brings little.",
        as_of="2026-08",
    ),
)
