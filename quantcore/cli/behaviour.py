"""Verbs on what a model does over many tokens: its greedy answers, and its KV cache along the context."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quantcore.cli.labs import loaded_lab, look_ahead
from quantcore.cli.outputs import progress_bar
from quantcore.cli.texts import TextOptions
from quantcore.lab.answers import ANSWER
from quantcore.lab.context import require_caches
from quantcore.lab.lab import Lab
from quantcore.model.locate import REFERENCE
from quantcore.studies.context_lens import FLOAT, RECALLED
from quantcore.text.reading import LONG, PROMPTS


def answers(
    schemes: list[str], texts: TextOptions, model: str = REFERENCE, device: str | None = None, tokens: int = ANSWER
) -> dict[str, Any]:
    """how soon greedy answers part from the float model's: every window of the text is a prompt"""
    if tokens < 1:
        raise ValueError(f"--tokens {tokens} is no answer; give at least 1")
    reading, learning = texts.measured(PROMPTS), texts.learned()
    asked = Lab(model, device)
    asked.require_fits(*schemes)
    plans = [asked.plan_of(one) for one in schemes]
    read = [reading, *([learning] if any(one.needs_text for one in plans) else [])]
    look_ahead(model, texts, *read)
    lab = loaded_lab(model, device, texts.texts)
    texts.require_window(lab.whole, *read)
    with progress_bar("answering") as tell:
        found = lab.answers(tuple(map(str, plans)), tokens, str(reading), str(learning), progress=tell)
    return {
        "model": model,
        "revision": lab.loaded.revision,
        "text": texts.facts(reading, lab.tokens(str(reading))),
        "tokens": found.count,
        "schemes": {
            scheme: {
                "part": dict(zip(("share", "lo", "hi"), found.share(scheme), strict=True)),
                "alike_after": found.alike(scheme),
                "parted": places,
            }
            for scheme, places in found.parted.items()
        },
    }


def lens(
    caches: list[str], texts: TextOptions, model: str = REFERENCE, device: str | None = None, facts: bool = False
) -> dict[str, Any]:
    """what coded KV caches lose along the context, position by position, and what they still recall"""
    if texts.window is not None and texts.window < 2 * RECALLED:
        raise ValueError(f"--window {texts.window} is too short for a lens; give at least {2 * RECALLED}")
    reading, learning = texts.measured(LONG), texts.learned()
    asked = Lab(model, device)
    learns = any(one.needs_ranges for one in require_caches(asked, tuple(caches)).values())
    look_ahead(model, texts, reading, *([learning] if learns else []))
    lab = loaded_lab(model, device, texts.texts)
    texts.require_window(lab.whole, reading)
    with progress_bar("reading") as tell:
        found = lab.context_lens(tuple(caches), str(reading), str(learning), progress=tell)
    said = _facts(lab, tuple(caches), str(reading), str(learning)) if facts else {}
    return {
        "model": model,
        "revision": lab.loaded.revision,
        "text": texts.facts(reading, lab.tokens(str(reading))),
        "positions": found.edges,
        "recall": {name: asdict(found.recall(name)) for name in found.said},
        "bytes": found.held,
        "float_bytes": found.held[FLOAT],
        "caches": {
            name: {
                "kl": float(kl.double().mean()),
                "flips": float(found.flips[name].double().mean()),
                "kl_along": [asdict(one) for one in found.along(kl)],
                "flips_along": [one.value for one in found.along(found.flips[name])],
            }
            for name, kl in found.kl.items()
        },
        **said,
    }


def _facts(lab: Lab, caches: tuple[str, ...], reading: str, learning: str) -> dict[str, Any]:
    with progress_bar("asking") as tell:
        found = lab.retrieval(caches, reading, learning, progress=tell)
    return {
        "facts": {
            "asked": found.asked,
            "tokens_back": [round(float(one)) for one in found.back.double().mean(0)],
            "float_finds": found.finds,
            "caches": {
                name: {
                    "named": found.share(name),
                    "gain": asdict(found.gain(name)),
                    "lost": asdict(found.lost(name)),
                    "log_p_by_place": said.double().mean(0).tolist(),
                }
                for name, said in found.said.items()
            },
            "log_p_of_other_facts": found.misled.double().mean(0).tolist(),
        }
    }
