"""How often equal schemes are told apart: the same scheme with scales moved within a grain, in duels of two and of six.

    python -m benchmarks.told_apart                  the reference model, w:int3/channel, 36 moves of its scales
    python -m benchmarks.told_apart --moves 12       fewer, sooner

Each move is one draw of rounding luck. Of their KL on the evaluation text duels are made by drawing candidates, each
with JITTERS more moves as its spread, as the page does; all are equal, so every claim of a difference is false. Claims
by the text alone, by the text corrected for all pairs, and by text and luck together; at most 5% should be. Duels share
moves, so their number is no number of independent trials; so many tokens are read as whole windows hold, the kinds of
text alike (of 16384 15360). Writes `benchmarks/results/told_apart.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from quantcore.lab.lab import Lab
from quantcore.measure.duel import Duel
from quantcore.measure.luck import JITTERS, Spread, jittered
from quantcore.measure.scores import Comparison
from quantcore.measure.told_apart import told_apart
from quantcore.text.reading import EVALUATE

COUNTS = (2, 6)
DUELS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", default="w:int3/channel")
    parser.add_argument("--moves", type=int, default=36)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2560, 16384])
    parser.add_argument("--out", type=Path, default=RESULTS / "told_apart.json")
    options = parser.parse_args()
    lab, rows = Lab(), []
    texts = jittered(str(lab.plan_of(options.scheme)), options.moves)
    for tokens in options.tokens:
        found = lab.duel(texts, str(EVALUATE.at_most(tokens)))
        kls = np.array([one.kl for one in found.reports.values()])
        luck = {"deviation over mean KL": float(kls.std(ddof=1) / kls.mean())}
        rows += [{"tokens": tokens, "candidates": count, **claims(found, count), **luck} for count in COUNTS]
        print(*rows[-len(COUNTS) :], sep="\n")
    result = {"scheme": options.scheme, "moves": options.moves, "duels": DUELS, "machine": describe(), "rows": rows}
    write(options.out, result)


def claims(found: Duel, count: int) -> dict[str, float]:
    """The share of duels of `count` candidates in which any pair is told apart."""
    rng, texts = np.random.default_rng(0), list(found.reports)
    alone = corrected = both = 0
    for _ in range(DUELS):
        drawn = [texts[place] for place in rng.choice(len(texts), count, replace=False)]
        others = [text for text in texts if text not in drawn]
        kl = {text: found.reports[text].kl for text in texts}
        spreads = {
            one: Spread((kl[one], *(kl[text] for text in rng.choice(others, JITTERS, replace=False)))) for one in drawn
        }
        scores, reports = {one: found.scores[one] for one in drawn}, {one: found.reports[one] for one in drawn}
        duel = Comparison(found.float_scores, scores, reports)
        pairs = told_apart(duel)
        alone += any(one.difference.significant for one in pairs.values())
        corrected += any(one.beyond for one in pairs.values())
        both += any(one.real for one in told_apart(duel, spreads).values())
    return {"text alone": alone / DUELS, "text, all pairs": corrected / DUELS, "text and luck": both / DUELS}


if __name__ == "__main__":
    main()
