"""The methods, each with its options, its traits and its text: how codes are chosen, `codes` does it.

Nobody asks which method a scheme has; they ask what it needs. A method of one's own is a frozen dataclass on `Method`
and a function, made known by `codes.register`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Actorder = Literal["weight", "group"] | None
# words of a method's text
_BY_WEIGHT = r"actorder=(weight)"
_DAMP = r"damp=(\d{1,9}(?:\.\d{1,9})?(?:e-?\d{1,2})?)"
_RIDGE = r"ridge=(\d{1,9}(?:\.\d{1,9})?(?:e-?\d{1,2})?)"
_SHARE = r"(\d(?:\.\d{1,9})?)"


class Method:
    """What every method says of itself. `str` gives its text, `parse_method` reads it.

    name            the first word of its text
    needs_hessian   whether it weighs errors with X^T X of the layer's inputs, so that text must be read first
    needs_coded_scales   whether it goes from code to code of scales, so that they must be codes (`scales`)
    needs_drift     whether it also wants to know how far quantized layers before have moved the inputs: X~^T (X - X~)
    keeps_g_idx     whether groups are formed of columns that are no neighbours, so that each column's group is stored
    damp            share of mean(diag(H)) added to the Hessian's diagonal; None where there is none
    words           the other words of its text: a pattern, and which option its group sets, by which function
    usage           the words, as a refusal lists them
    offered         (a class method) its usual forms, as a menu lists them: one with every default, unless it says more
    """

    name: ClassVar[str]
    needs_hessian: ClassVar[bool] = False
    needs_drift: ClassVar[bool] = False
    needs_coded_scales: ClassVar[bool] = False
    words: ClassVar[Mapping[str, tuple[str, Callable[[str], Any]]]] = {}
    usage: ClassVar[str] = ""
    damp: float | None = None

    @property
    def keeps_g_idx(self) -> bool:
        return False

    @classmethod
    def offered(cls) -> tuple[Method, ...]:
        return (cls(),)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Rtn(Method):
    """Round to nearest: every weight goes to the code next to it, on its own."""

    name = "rtn"


@dataclass(frozen=True)
class Gptq(Method):
    """Column by column, each error made up for by the columns still to come (`gptq`): gptq/actorder=weight/damp=0.05.

    actorder        None: columns as they come. "weight": by falling diag(H), groups keep their columns. "group": by
                    falling diag(H), groups are formed in that order, and the QTensor carries g_idx
    damp            the share of mean(diag(H)) that is added to the diagonal
    block_size      columns between two matrix products (/block=64); changes the speed, not the codes
    static_groups   scales from the original weights; False (/moving): a group's from its columns as the sweep has
                    moved them by then
    Source: Frantar et al. 2022, arXiv:2210.17323; the reordering: act-order of the authors' code.
    """

    name = "gptq"
    needs_hessian = True
    words = {
        r"actorder=(weight|group)": ("actorder", str),
        _DAMP: ("damp", float),
        r"block=(\d{1,9})": ("block_size", int),
        r"(moving)": ("static_groups", lambda _: False),
    }
    usage = "/actorder=weight, /actorder=group, /damp=0.01, /block=128 and /moving"

    actorder: Actorder = None
    damp: float = 0.01
    block_size: int = 128
    static_groups: bool = True

    def __post_init__(self) -> None:
        if self.actorder not in (None, "weight", "group"):
            raise ValueError(f"actorder={self.actorder!r} is unknown; use None, 'weight' or 'group'")
        if not 0 < self.damp < float("inf"):
            raise ValueError(
                f"damp={self.damp:g} keeps no Hessian positive definite; use a positive share, such as 0.01"
            )
        if self.block_size < 1:
            raise ValueError(f"block_size={self.block_size} holds no column; try 128")
        if self.actorder == "weight" and not self.static_groups:
            raise ValueError(
                "actorder='weight' meets a group's columns far apart, so its scale must be known before; "
                "use static_groups=True, or actorder='group'"
            )

    @staticmethod
    def of(method: Method) -> Gptq:
        """The options, for what steps through this method alone. Raises: ValueError for another method."""
        if not isinstance(method, Gptq):
            raise ValueError(f"this goes through GPTQ's steps, and {method} is another method; write gptq in its place")
        return method

    @classmethod
    def offered(cls) -> tuple[Method, ...]:
        return (cls(), cls("weight"), cls("group"))

    @property
    def keeps_g_idx(self) -> bool:
        return self.actorder == "group"

    def __str__(self) -> str:
        words = [self.name]
        if self.actorder is not None:
            words.append(f"actorder={self.actorder}")
        if self.damp != Gptq.damp:
            words.append(f"damp={self.damp:.10g}")
        if self.block_size != Gptq.block_size:
            words.append(f"block={self.block_size}")
        if not self.static_groups:
            words.append("moving")
        return "/".join(words)


@dataclass(frozen=True)
class Clip(Method):
    """Round to nearest under ranges that are shrunk where the layer's outputs then lose less (`clip`); with awq before
    it, AWQ as its authors have it. Source: Lin et al. 2023, arXiv:2306.00978."""

    name = "clip"
    needs_hessian = True


@dataclass(frozen=True)
class Refine(Method):
    """Round to nearest under coded scales, each of which in turn becomes the code with which the layer's outputs lose
    least (`refine`): NVFP4A16,refine; with search=h it begins at each scale's best by diag(H) alone."""

    name = "refine"
    needs_hessian = True
    needs_coded_scales = True


@dataclass(frozen=True)
class Drifted(Method):
    """What the methods share that go through GPTQ's sweep and make up, by a share, for what quantized layers before did
    to the inputs. In a model whose other layers are float each is GPTQ.

    actorder, damp   Gptq's; groups keep their columns
    of_drift         the name of the option that says how much is made up for"""

    needs_hessian = True
    needs_drift = True
    of_drift: ClassVar[str]

    actorder: Literal["weight"] | None = None
    damp: float = 0.01

    def __post_init__(self) -> None:
        Gptq(self.actorder, self.damp)
        if not 0 < (share := getattr(self, self.of_drift)) <= 1:
            raise ValueError(
                f"{self.of_drift}={share:g} is no share of what {self.name} makes up for; use one above 0, up to 1"
            )

    @property
    def sweep(self) -> Gptq:
        """GPTQ's own options."""
        return Gptq(self.actorder, self.damp)

    def __str__(self) -> str:
        share, usual = getattr(self, self.of_drift), getattr(type(self), self.of_drift)
        more = "" if share == usual else f"/{self.of_drift}={share:.10g}"
        return str(self.sweep).replace(Gptq.name, self.name, 1) + more


@dataclass(frozen=True)
class Qronos(Drifted):
    """GPTQ behind a first step that makes up for what quantized layers before did to the inputs (`qronos`):
    qronos/actorder=weight/damp=0.05.

    share    of that first step which is taken (/share=1 is the paper's whole step)
    ridge    by how much it is held to the weight, a share of mean(diag H): damping of its own (/ridge=1)

    The step is fitted to the calibration text, and overfits where that has few tokens for a layer's columns, or a few
    giant ones. Reference model, int3 in groups of 128, learned from 4,096 tokens, KL on another text: GPTQ .464, the
    whole step with a ridge of .01 .671, half of it .374; with a ridge of 1 .393 and .389 (int4: half .078, now .074).
    SmolLM2-135M behind awq, whose block 11 has a giant token: the ridge of .01 lost .716, rounding .424.
    Source: Zhang et al. 2025, arXiv:2505.11695."""

    name = "qronos"
    words = {
        _BY_WEIGHT: ("actorder", str),
        _DAMP: ("damp", float),
        f"share={_SHARE}": ("share", float),
        _RIDGE: ("ridge", float),
    }
    usage = "/actorder=weight, /damp=0.01, /share=0.5 and /ridge=1"
    of_drift = "share"

    share: float = 0.5
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damp <= self.ridge < float("inf"):  # so that where it gives no factor, the sweep has none either
            raise ValueError(
                f"ridge={self.ridge:g} holds the first step to the weight by less than the sweep's damp={self.damp:g}; "
                "use as much or more, such as 1"
            )

    def __str__(self) -> str:
        return super().__str__() + ("" if self.ridge == Qronos.ridge else f"/ridge={self.ridge:.10g}")

    @classmethod
    def offered(cls) -> tuple[Method, ...]:
        return (cls(), cls("weight"))


@dataclass(frozen=True)
class Gptaq(Drifted):
    """GPTQ that hands on what quantized layers before did to each column's input (`gptaq`):
    gptaq/actorder=weight/damp=0.05.

    alpha    how much of it is handed on (/alpha=0.25)
    Source: Li et al. 2025, arXiv:2504.02692."""

    name = "gptaq"
    words = {_BY_WEIGHT: ("actorder", str), _DAMP: ("damp", float), f"alpha={_SHARE}": ("alpha", float)}
    usage = "/actorder=weight, /damp=0.01 and /alpha=0.25"
    of_drift = "alpha"

    alpha: float = 0.25


METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Rtn, Gptq, Clip, Refine, Qronos, Gptaq)}


def parse_method(text: str) -> Method:
    """`rtn`, `gptq/actorder=weight/damp=0.05`: the inverse of `str`. Raises: ValueError."""
    name, *words = text.split("/")
    kind, options = METHODS[name], dict[str, Any]()
    for word in words:
        found = [
            (*target, match[1]) for pattern, target in kind.words.items() if (match := re.fullmatch(pattern, word))
        ]
        if not found:
            known = ", and ".join(
                f"{one.name} with {one.usage} behind it" if one.usage else one.name for one in METHODS.values()
            )
            raise ValueError(f"cannot read {(word if kind.words else text)!r}; the methods are {known}")
        option, convert, value = found[0]
        if option in options:
            raise ValueError(f"{text!r} says {word.split('=')[0]!r} twice; say it once")
        options[option] = convert(value)
    return kind(**options)
