"""What the page Granularity says first."""

from __future__ import annotations

from quantcore.studies.granularity import GranularityRow, GranularityStudy


def headline(study: GranularityStudy) -> str:
    """What the chosen tiles keep and cost, beside one scale for all; of that itself, beside the best there is."""
    coarsest, chosen = study.rows[0], study.chosen
    if chosen == coarsest:
        other = max(study.rows, key=lambda row: row.token_sqnr_db)
    else:
        other = coarsest
    return f"Of the median token's output {_kept(chosen, True)}; {_kept(other)}."


def _kept(row: GranularityRow, first: bool = False) -> str:
    bold = "**" * first
    return (
        f"{bold}{row.name}{bold} keeps {bold}{row.token_sqnr_db:z.1f} dB{bold} at "
        f"{bold}{row.bits_per_weight:.3f} bits{bold} a weight"
    )
