"""The small files beside the weights: tokenizer, generation config, and what a model reads pictures by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from quantcore.model.held import Held
from quantcore.model.weight_files import read_json

TEMPLATE = "chat_template.json"  # of a processor; transformers takes no other form of one beside it
TEKKEN = "tekken.json"  # the tokenizer of Mistral's own programs, which vLLM can take too
PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", TEMPLATE)


def save_companions(model: Held, folder: Path) -> None:
    """Write into `folder` what transformers looks for there besides config.json and the weights."""
    model.tokenizer.save_pretrained(folder)
    if getattr(model.skeleton, "generation_config", None) is not None:
        model.skeleton.generation_config.save_pretrained(folder)
    if model.folder is None:
        return
    for name in PROCESSOR:  # which no tokenizer saves
        file = model.folder / name
        other = name == TEMPLATE and (folder / "chat_template.jinja").exists()
        if file.is_file() and not (folder / name).exists() and not other:
            (folder / name).write_text(json.dumps(read_json(file), indent=2), encoding="utf-8")
    if (model.folder / TEKKEN).is_file():
        shutil.copyfile(model.folder / TEKKEN, folder / TEKKEN)
