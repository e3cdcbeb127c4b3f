"""A scale per token: who pays for the giant?"""

from __future__ import annotations

from torch import Tensor

from quantcore.lab.bench import READ
from quantcore.lab.lab import Lab
from quantcore.numbers.digits import digits
from ui.components.wipe import wipe
from ui.course.guess import Pick
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import short
from ui.markdown import code

FORMAT = "int8"
HEIGHT = 430
GIANT, OTHERS, NOBODY = "the giant token", "all the other tokens", "nobody"
GUESS = Pick(GIANT, OTHERS, NOBODY)
AUDIBLE_DB = 3.0  # from so much on somebody pays


def find(lab: Lab) -> Specimen | Missing:
    best = lab.giant()
    if best is None:
        return Missing(
            "No layer of this model has a token that reaches three times as far as the median one, so no giant makes "
            "others pay. Larger trained models have one, often the first token."
        )
    study = lab.channels(best.layer)
    token = int(study.token_absmax.argmax())
    said = (
        f"{short(best.layer).capitalize()} has the largest token of this model's {best.of} layers: "
        f"{code(lab.token_texts(READ)[token])} (token {token}) reaches **{digits(float(study.token_absmax[token]))}**, "
        f"the median token {float(study.token_absmax.median()):.2g}. All tokens share one int8 scale that fits the "
        "giant. Then each gets its own. Who had paid for the giant?"
    )
    return Specimen(said, GUESS, of=(best.layer, token))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    layer, giant = found.of
    payers = lab.payers(layer, FORMAT)
    tensor, token = payers[0], payers[1]
    gains = token.token_sqnr_db - tensor.token_sqnr_db
    own, others = float(gains[giant]), float(gains[[i for i in range(len(gains)) if i != giant]].median())
    truth = NOBODY if max(own, others) < AUDIBLE_DB else GIANT if own > others else OTHERS
    answer = (
        f"**{truth.capitalize()}**: a scale of its own gives the median one {others:+z.0f} dB, the giant {own:+.0f}."
    )
    why = (
        f"Under the giant's scale the median channel has {tensor.median_codes} of {tensor.codes} codes, with a scale a "
        f"token {token.median_codes}. The median token keeps **{float(tensor.token_sqnr_db.median()):z.1f} dB**, then "
        f"**{float(token.token_sqnr_db.median()):.1f}**."
    )
    twist = (
        f"Asked as a whole, the input keeps {tensor.input_sqnr_db:z.1f} dB under one scale, "
        f"{token.input_sqnr_db:.1f} with a scale a token: the giant holds so much of the power that the whole speaks "
        "for it, not for the median token."
    )

    def draw(key: str) -> None:
        ways = (("one scale", "tensor", tensor), ("a scale a token", "token", token))
        maps = [
            (f"{name}, {float(payer.token_sqnr_db.median()):z.1f} dB", error_of(lab, layer, grain))
            for name, grain, payer in ways
        ]
        wipe(maps, key=key, alt=why, axes="tokens down, channels across", unit="of error, log", height=HEIGHT)

    more = "pages/3_Outliers.py", {"layer": layer, "act": FORMAT}
    return Reveal(GUESS.of(truth), answer, why, (Shown(draw, why.replace("*", ""), HEIGHT),), twist, more=more)


def error_of(lab: Lab, layer: str, grain: str) -> Tensor:
    return lab.input_error(layer, f"a:{FORMAT}/{grain}/dynamic")


SCENE = Scene("token", "A scale per token", "Who pays for the giant token?", find, reveal)
