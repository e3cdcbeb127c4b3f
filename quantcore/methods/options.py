"""How codes are chosen: the methods and their options, each with its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rtn:
    """Round to nearest: every weight goes to the code next to it, on its own."""

    def __str__(self) -> str:
        return "rtn"


@dataclass(frozen=True)
class Gptq:
    """Column by column, each error made up for by the columns still to come (`gptq`): gptq/actorder=weight/damp=0.05.

    actorder        None: columns as they come. "weight": by falling diag(H), groups keep their columns. "group": by
                    falling diag(H), groups are formed in that order, and the QTensor carries g_idx
    damp            the share of mean(diag(H)) that is added to the diagonal
    block_size      columns between two matrix products (/block=64); changes the speed, not the codes
    static_groups   scales from the original weights; False (/moving): a group's from its columns as the sweep has
                    moved them by then
    Source: Frantar et al. 2022, arXiv:2210.17323; the reordering: act-order of the authors' code.
    """

    actorder: Literal["weight", "group"] | None = None
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

    def __str__(self) -> str:
        words = ["gptq"]
        if self.actorder is not None:
            words.append(f"actorder={self.actorder}")
        if self.damp != Gptq.damp:
            words.append(f"damp={self.damp:.10g}")
        if self.block_size != Gptq.block_size:
            words.append(f"block={self.block_size}")
        if not self.static_groups:
            words.append("moving")
        return "/".join(words)


Method = Rtn | Gptq
