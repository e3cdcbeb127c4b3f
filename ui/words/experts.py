"""What the maps of experts say, in words."""

from __future__ import annotations

from quantcore.studies.experts import ExpertStudy

NAMED = 5


def load(study: ExpertStudy) -> str:
    """How evenly the router shares the text out."""
    counts = [
        (count, block, expert)
        for block, row in zip(study.blocks, study.tokens, strict=True)
        for expert, count in enumerate(row)
    ]
    most, least = max(counts), min(counts)
    idle = sum(count == 0 for count, _, _ in counts)
    said = (
        f"Of {study.read:,} tokens, expert {most[2]} of block {most[1]} is given most, **{most[0]:,}** "
        f"({most[0] / study.read:.1%}), and expert {least[2]} of block {least[1]} least, **{least[0]:,}** "
        f"({least[0] / study.read:.1%}); an even router would give each {study.even:.1%}."
    )
    return said + (f" {idle} of {len(counts)} experts are given none." if idle else "")


def damage(study: ExpertStudy) -> str:
    """Which expert loses most under the scheme."""
    known = [
        (value, block, expert)
        for block, row in zip(study.blocks, study.damage_db, strict=True)
        for expert, value in enumerate(row)
        if value is not None
    ]
    if not known:
        return "No token reached an expert that is quantized."
    worst, best = min(known), max(known)
    return (
        f"Expert {worst[2]} of block {worst[1]} loses most, **{worst[0]:z.1f} dB** are left; expert {best[2]} of block "
        f"{best[1]} least, {best[0]:z.1f} dB."
    )


def scarce(study: ExpertStudy) -> str:
    """Experts with too few tokens to learn from, by name; empty where there are none."""
    found = study.scarce()
    if not found:
        return ""
    some = ", ".join(f"block {block} expert {expert} ({count})" for block, expert, count in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"Fewer calibration tokens than the {study.columns} columns of their weights: {some}{more}. Read more text, or "
        "let every expert see every token (`experts=all`)."
    )
