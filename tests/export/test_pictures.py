"""Pictures beside text: the text part alone is quantized, and a picture gets the same answer from the checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from benchmarks.zoo_models import build, save, tokenizer
from quantcore.export.checkpoint import export_checkpoint
from quantcore.model.loading import load_model
from quantcore.model.streamed import StreamedModel
from quantcore.pipeline.convert import quantize_model

TOKENS = torch.arange(3, 67).view(2, 32)
STATIC = "w:int8/channel,a:int8/tensor/static"


def llava(folder: Path) -> Path:
    """A Llava with CLIP's tower, and its processor as transformers writes it."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    picture = words.convert_tokens_to_ids("<image>")
    text = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=1024, initializer_range=0.1,
    )  # fmt: skip
    seen = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
    )
    config = transformers.LlavaConfig(
        text_config=text, vision_config=seen, image_token_index=picture, image_token_id=picture, image_seq_length=16
    )
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template="{% for one in messages %}{{ one.content }}{% endfor %}",
    ).save_pretrained(folder)
    return folder


def asked(folder: Path) -> dict[str, Tensor]:
    """A picture and a few words, through the processor in a folder."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    processor: Any = transformers.AutoProcessor.from_pretrained(folder)
    return dict(processor(text="<image> the lamp", images=Image.fromarray(pixels), return_tensors="pt"))


@pytest.mark.parametrize(("scheme", "streamed"), [("w:int4/group16,gptq", False), (STATIC, True)])
def test_a_picture_gets_the_same_answer(scheme: str, streamed: bool, tmp_path: Path) -> None:
    folder = llava(tmp_path / "model")
    (folder / "tekken.json").write_bytes(b'{"config": {}}\n')
    lm = load_model(str(folder), "cpu")
    assert lm.context == 1024
    source = StreamedModel(str(folder), "cpu") if streamed else lm
    report = export_checkpoint(source, scheme, tmp_path / "out", TOKENS, dtype=torch.float32)
    assert report.logits_apart == pytest.approx(0, abs=1e-5)
    done = [one.name for one in report.layers if one.scheme != "float"]
    assert len(done) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in done)
    assert (tmp_path / "out" / "tekken.json").read_bytes() == b'{"config": {}}\n'
    before, after = asked(folder), asked(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    ours, _ = quantize_model(lm.model, scheme, calibration=TOKENS)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(**after).logits, ours(**before).logits, rtol=1e-4, atol=1e-4)
        blank = {**after, "pixel_values": torch.zeros_like(after["pixel_values"])}
        assert not torch.allclose(theirs(**after).logits, theirs(**blank).logits, atol=1e-2)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "mistral3"])
def test_towers_and_projectors_stay_float_and_are_named(kind: str, tmp_path: Path) -> None:
    folder = save(build(kind), tmp_path / "model")
    report = export_checkpoint(StreamedModel(str(folder), "cpu"), STATIC, tmp_path / "out", TOKENS)
    assert report.logits_apart == pytest.approx(0, abs=1e-5)
    assert not any(one.startswith("transformers was not asked") for one in report.notes)
    left = {one.name: one.notes[0] for one in report.layers if one.scheme == "float"}
    assert {one.split(".")[1] for one in left} <= {"visual", "vision_tower", "multi_modal_projector"}
    assert sum("the tokens of a text do not reach it" in why for why in left.values()) > 6
    ignored = transformers.AutoConfig.from_pretrained(tmp_path / "out").quantization_config["ignore"]
    written = {name.removesuffix(".weight").split(".", 1)[1] for name, why in left.items() if "do not reach" in why}
    assert all(any(one.endswith(name) for one in ignored) for name in written)


@pytest.mark.parametrize("scheme", [f"{STATIC},smooth=0.5", "w:int4/group16,gptq"])
def test_blocks_that_attend_to_pictures_are_passed_over(scheme: str, tmp_path: Path) -> None:
    """Llama 3.2 Vision calls them where there is a picture only, the last block among them here."""
    text = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "cross_attention_layers": [1, 3], "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "initializer_range": 0.1,
    }  # fmt: skip
    seen = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "image_size": 32,
        "attention_heads": 4, "patch_size": 8, "vision_output_dim": 64, "intermediate_layers_indices": [0],
        "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.MllamaConfig(text_config=text, vision_config=seen, image_token_index=511)
    folder = save(transformers.MllamaForConditionalGeneration(config), tmp_path / "model")
    report = export_checkpoint(StreamedModel(str(folder), "cpu"), scheme, tmp_path / "out", TOKENS)
    assert report.logits_apart == pytest.approx(0, abs=1e-5)
    done = {one.name.split(".")[3] for one in report.layers if one.scheme != "float"}
    assert done == {"0", "2"}
    left = {one.name: one.notes[0] for one in report.layers if one.scheme == "float"}
    for part in ("cross_attn.q_proj", "mlp.up_proj"):
        assert "do not reach it" in left[f"model.language_model.layers.3.{part}.weight"]
    _, reports = quantize_model(load_model(str(folder), "cpu").model, scheme, calibration=TOKENS)
    assert {one.name for one in reports} == {one.name for one in report.layers}
