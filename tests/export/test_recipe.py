"""Recipes: read back they are what they were, and other people's classes read them the same way."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.recipe import plan_from_recipe, recipe, script
from quantcore.model.loading import load_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import PRESETS, Scheme

TEXTS = [
    *PRESETS,
    "w:int4/group128/asym/mse,gptq/actorder=weight/damp=0.05/block=64",
    "w:int4/channel,gptq",
    "w:int8/block64x32,a:int8/tensor/static/ema0.05",
    "w:int8/channel,a:int8/tensor/static/asym/mse,skip=none",
    "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static,skip=down_proj,skip=layers.0",
    "W4A16@down_proj=W8A16",
    "W4A16@layers.0,layers.3=float@0.mlp.up_proj=W8A16",
    "W4A16,gptq@down_proj=W8A16@mlp=W4A16,gptq/actorder=weight@0.mlp,1.mlp=W8A8@layers.0=float",
    "W8A8,skip=none@q_proj=float@lm_head=W8A16@layers.1=float",
    "W8A8,skip=q_proj@layers.1=float@layers.1.self_attn.o_proj=W4A16",
    "float@down_proj=W8A16,gptq@1.mlp.down_proj=float",
    "W4A16@down_proj=W8A16@down_proj=float",
    "W8A8,smooth=0.8",
    "W8A8,kv:fp8_e4m3/tensor/static",
    "W4A16,kv:fp8_e4m3/head/static/ema0.05,gptq@down_proj=W8A16",
    "W8A8,kv:int8/tensor/static/mse,awq",
    "W4A4,rotate=hadamard",
    "W4A4,rotate=hadamard/r4,gptq",
    "W4A4,quip=hadamard",
    "MXFP4,quip=signed/32",
    "W4A4,rotate=hadamard,smooth=0.5,quip=hadamard/64",
    "W4A16,awq,gptq",
    "W4A16,rotate=random,smooth=0.5,gptq",
    "W4A16,smooth=0.25,gptq/actorder=weight@down_proj=W8A16",
]
LAYERS = [
    *(
        f"model.layers.{block}.{part}"
        for block in (0, 1, 3, 10)
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    ),
    "lm_head",
]


@pytest.mark.parametrize("text", TEXTS)
def test_read_back(text: str) -> None:
    plan = Plan.parse(text)
    assert plan_from_recipe(recipe(text)) == plan


@pytest.mark.parametrize("text", TEXTS)
def test_their_matching_gives_each_layer_its_scheme(text: str) -> None:
    """compressed-tensors matches a layer's name in each modifier; at most one may take it, and with our scheme."""
    quantization = pytest.importorskip("compressed_tensors.quantization")
    match = pytest.importorskip("compressed_tensors.utils.match")
    plan = Plan.parse(text)
    modifiers = [body for group in stages(text) for body in group.values() if "config_groups" in body]
    linear = torch.nn.Linear(1, 1)
    for name in LAYERS:
        taken = []
        for body in modifiers:
            if match.match_targets(name, linear, body["ignore"]):
                continue
            groups = [quantization.QuantizationScheme.model_validate(one) for one in body["config_groups"].values()]
            by_target = {target: one for one in groups for target in one.targets}
            taken += [by_target[target] for target in match.match_targets(name, linear, by_target)[:1]]
        ours = plan.scheme_for(name)
        assert len(taken) == (ours is not None), name
        if ours is not None:
            weights, inputs = taken[0].weights, taken[0].input_activations
            assert (weights.num_bits, weights.symmetric) == (ours.weights.fmt.bits, ours.weights.symmetric)
            assert (inputs is None) == (ours.activations is None)
            assert inputs is None or (inputs.num_bits, inputs.dynamic) == (
                ours.activations.fmt.bits, "local" if ours.activations.local else ours.activations.dynamic,
            )  # fmt: skip


def stages(text: str) -> list[dict[str, Any]]:
    return [group for stage in yaml.safe_load(recipe(text)).values() for group in stage.values()]


def test_what_it_says() -> None:
    (group,) = stages("W4A16,gptq/actorder=weight")
    assert group == {
        "GPTQModifier": {
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "dynamic": False,
                        "group_size": 128, "observer": "memoryless_minmax",
                    },
                    "input_activations": None,
                }
            },
            "ignore": ["re:.*lm_head"],
            "actorder": "weight",
            "dampening_frac": 0.01,
            "block_size": 128,
        }
    }  # fmt: skip


def test_other_peoples_recipes() -> None:
    text = """
    default_stage:
      default_modifiers:
        GPTQModifier:
          targets: Linear
          ignore: [lm_head, 're:.*gate']
          scheme: W4A16
          dampening_frac: 0.1
    """
    assert str(plan_from_recipe(text)) == (
        "w:int4/group128,gptq/actorder=weight/damp=0.1,skip=lm_head,skip=re:.*gate"  # reordering is its default
    )
    text = """
    quant_stage:
      quant_modifiers:
        QuantizationModifier:
          ignore: [lm_head]
          config_groups:
            group_0:
              targets: [Linear]
              weights: {num_bits: 8, type: int, symmetric: true, strategy: channel}
              input_activations: {num_bits: 8, type: int, symmetric: true, strategy: tensor}
    """
    assert str(plan_from_recipe(text)) == "w:int8/channel,a:int8/tensor/static/ema0.01"  # its minmax moves
    text = """
    quant_stage:
      run_type: oneshot
      quant_modifiers:
        AWQModifier: {ignore: [lm_head], targets: Linear, scheme: W4A16_ASYM, duo_scaling: true, offload_device: null}
    """
    assert str(plan_from_recipe(text)) == "w:int4/group128/asym,awq"  # AWQModifier once quantized, too
    text = "s: {m: {QuantizationModifier: {ignore: lm_head, scheme: {W4A16: [Linear], w8a16: ['re:.*up_proj$']}}}}"
    assert plan_from_recipe(text).scheme_for("model.layers.0.mlp.up_proj") == Scheme.parse("W8A16")
    assert str(plan_from_recipe(text).default) == "w:int4/group128"
    group = "{targets: Linear, weights: {type: INT, strategy: CHANNEL}}"
    text = f"s: {{m: {{QuantizationModifier: {{config_groups: {{g: {group}}}}}}}}}"
    assert str(plan_from_recipe(text)) == "w:int8/channel,skip=none"
    text = "s: {m: {QuantizationModifier: {kv_cache_scheme: {num_bits: 8, type: float, strategy: attn_head}}}}"
    assert str(plan_from_recipe(text)) == "kv:fp8_e4m3/head/static/ema0.01,skip=none"


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        ("float", "nothing is quantized"),
        ("kv:int8/tensor", "give W8A16,kv:int8/tensor/static"),
        ("W8A8,kv:int8/tensor/static/p99", "no percentile observer"),
        ("W8A8,kv:int4/group64", "one frozen scale a layer or a head"),
        ("a:int8/token/dynamic", "its formats are about weights"),
        ("w:int4/group128,gptq/actorder=group", "use actorder=weight"),
        ("w:int4/group128,gptq/moving", "leave /moving out"),
        ("w:int8_narrow/channel", "it has no int8_narrow"),
        ("w:fp8_e5m2/channel", "it has no fp8_e5m2"),
        ("w:fp4_e2m1/channel", "it has fp4_e2m1 with coded scales alone; write fp4_e2m1/group32/e8m0 or fp4_e2m1/gr"),
        ("w:fp4_e2m1/group16/e4m3/search", "go along a grid of ranges, not from code to code of scales"),
        ("w:fp8_e4m3/group16/e8m0", "it has e8m0 scales for group32 of"),
        ("w:int8/channel/p99.9", "no percentile observer"),
        ("W4A16@down_proj=w:int8/channel/p99.9", "no percentile observer"),
    ],
)
def test_what_it_has_not(scheme: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipe(scheme)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no llm-compressor recipe"),
        ("- a\n- b", "no llm-compressor recipe"),
        ("a: {b: [}", "no llm-compressor recipe"),
        ("a_stage: {}", "has no modifier"),
        ("a_stage: {b_modifiers: {AutoRoundModifier: {}}}", "AutoRoundModifier is no method of this lab"),
        ("a_stage: {b_modifiers: {QuantizationModifier: {}}}", "neither a scheme nor config_groups"),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, ignore: ['re:(a+)+$']}}}",
            "it repeats groups",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, ignore: ['re:(']}}}",
            "is no regular expression",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, ignore: [gate]}}}",
            "is a whole name or a class there, and no Linear is called so; write an expression, as in re:",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, kv_cache_scheme: {dynamic: true}}}}",
            "kv_cache_scheme: a cache per tensor cannot be dynamic",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {kv_cache_scheme: {strategy: token, dynamic: true}}}}",
            "kv_cache_scheme has the strategy token, there one scale for all the tokens of a head",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {kv_cache_scheme: {strategy: channel}}}}",
            "a cache cannot be quantized per channel",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {kv_cache_scheme: {block: 3}}}}",
            "kv_cache_scheme has 'block', which this lab does not know",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {kv_cache_scheme: {num_bits: 8}}, "
            "GPTQModifier: {scheme: W8A16, kv_cache_scheme: {type: float}}}}",
            "say kv:int8/tensor/static/ema0.01 and kv:fp8_e4m3/tensor/static/ema0.01 of one cache",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {config_groups: {one: {targets: [Linear], weights: "
            "{num_bits: 4}, output_activations: {num_bits: 8}}}}}}",
            "has 'output_activations', which this lab does not know",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, bypass: true}}}",
            "has 'bypass', which this lab does not know",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, ignore: ['re:.*a']}, "
            "GPTQModifier: {scheme: W8A16, targets: ['re:.*b$']}}}",
            "ignores 're:.\\*a', which the others neither ignore nor target",
        ),
        ("a_stage: {b_modifiers: {QuantizationModifier: {scheme: W99}}}", "scheme is 'W99', not a preset"),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: 'w:int4/group128,gptq'}}}",
            "scheme is 'w:int4/group128,gptq', not a preset of compressed-tensors",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, config_groups: {g: {targets: [Linear]}}}}}",
            "has a scheme and config_groups, and they say the same",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {config_groups: {g: {weights: {num_bits: 8}}}}}}",
            "the recipe's 'g' names no targets",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: W8A8}, GPTQModifier: {scheme: W4A16}}}",
            "the recipe gives 'Linear' two schemes",
        ),
        (
            "a_stage: {b_modifiers: {QuantizationModifier: {scheme: {W8A8: 're:.*up', W4A16: 're:.*up'}}}}",
            "the recipe gives 're:.\\*up' two schemes",
        ),
    ],
)
def test_what_is_no_recipe(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        plan_from_recipe(text)


NAMES = [
    "model.layers.0.mlp.gate",
    "model.layers.0.mlp.gate_proj",
    "model.layers.1.mlp.gate_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "lm_head",
]


@pytest.mark.parametrize(
    ("ignore", "groups"),
    [
        (["lm_head", "re:.*mlp.gate"], [(4, ["Linear"])]),  # gate_proj, too
        (["lm_head", "re:.*mlp.gate$"], [(4, ["Linear"])]),
        (["re:.*lm_head", "model.layers.0.mlp.gate_proj"], [(4, ["Linear"])]),
        (["re:model.layers.0"], [(4, ["Linear"])]),  # from the first sign on
        (["re:layers.0"], [(4, ["Linear"])]),  # so this fits none
        (["re:.*(q|k)_proj$"], [(4, ["Linear"])]),
        (["re:.*layers.0", "lm_head"], [(4, ["re:.*gate_proj"]), (8, ["Linear"])]),
        (["re:.*mlp.gate$"], [(4, ["re:.*_proj"]), (8, ["re:.*(gate|q)_proj$", "model.layers.1.self_attn.k_proj"])]),
        ([r"re:.*self_attn\.[qk]_proj", "re:.{1,2}_head"], [(4, ["Linear"])]),
    ],
)
def test_other_peoples_names_mean_what_their_library_means(
    ignore: list[str], groups: list[tuple[int, list[str]]]
) -> None:
    match = pytest.importorskip("compressed_tensors.utils.match")
    config = {
        str(bits): {"targets": targets, "weights": {"num_bits": bits, "strategy": "channel"}}
        for bits, targets in groups
    }
    body = {"ignore": ignore, "config_groups": config}
    plan = plan_from_recipe(yaml.safe_dump({"a_stage": {"b_modifiers": {"QuantizationModifier": body}}}))
    linear = torch.nn.Linear(1, 1)
    bits_of = {target: bits for bits, targets in groups for target in targets}

    def theirs(name: str) -> int | None:
        fitting = match.match_targets(name, linear, list(bits_of))
        ignored = match.match_targets(name, linear, ignore)
        return bits_of[fitting[0]] if fitting and not ignored else None

    def ours(plan: Plan, name: str) -> int | None:
        scheme = plan.scheme_for(name)
        return None if scheme is None or scheme.weights is None else scheme.weights.fmt.bits

    assert [ours(plan, name) for name in NAMES] == [theirs(name) for name in NAMES]
    assert Plan.parse(str(plan)) == plan
    again = plan_from_recipe(recipe(plan))
    assert [ours(again, name) for name in NAMES] == [ours(plan, name) for name in NAMES]


def test_a_recipe_that_leaves_many_layers_float_is_read_into_a_text_that_can_be_asked_for() -> None:
    ignore = ["lm_head", *(f"model.layers.{block}.mlp.gate" for block in range(48))]
    body = {"scheme": "W4A16", "targets": ["Linear"], "ignore": ignore}
    plan = plan_from_recipe(yaml.safe_dump({"a_stage": {"b_modifiers": {"QuantizationModifier": body}}}))
    assert Plan.parse(str(plan)) == plan
    assert [
        plan.scheme_for(name) is None for name in ("model.layers.47.mlp.gate", "model.layers.47.mlp.gate_proj")
    ] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("modifiers", "refused"),
    [
        ([("Linear", ["re:.*lm_head"], 4), ("re:.*lm_head", [], 8)], None),
        ([("Linear", ["lm_head"], 4), ("re:.*lm_head", ["re:.*gate$"], 8)], "re:.*gate"),
        ([("Linear", ["lm_head", "re:.*q_proj"], 4), ("re:.*q_proj", ["lm_head"], 8)], None),
        ([("Linear", ["lm_head"], 4), ("re:.*down_proj$", [], 8)], None),
        ([("Linear", ["lm_head"], 4), ("re:.*head", [], 8)], "lm_head"),
        ([("re:.*gate_proj", ["re:.*gate_proj"], 4), ("Linear", ["re:.*gate_proj"], 8)], None),  # nobody's
        ([("Linear", ["re:.*q_proj", "re:.*lm_head"], 4), ("re:.*q_proj", ["re:.*q_proj"], 8)], None),
    ],
)
def test_what_one_modifier_ignores_another_may_quantize(
    modifiers: list[tuple[str, list[str], int]], refused: str | None
) -> None:
    """Each by itself, as their `match_targets` takes it; what this lab cannot say so is refused."""
    match = pytest.importorskip("compressed_tensors.utils.match")
    stage = {
        f"m{place}": {
            "QuantizationModifier": {
                "ignore": ignore,
                "config_groups": {"g": {"targets": [target], "weights": {"num_bits": bits, "strategy": "channel"}}},
            }
        }
        for place, (target, ignore, bits) in enumerate(modifiers)
    }
    text = yaml.safe_dump({"a_stage": stage})
    if refused is not None:
        with pytest.raises(ValueError, match=f"ignores '{re.escape(refused)}.*', which the others neither ignore"):
            plan_from_recipe(text)
        return
    plan, linear = plan_from_recipe(text), torch.nn.Linear(1, 1)
    for name in NAMES:
        theirs = [
            bits
            for target, ignore, bits in modifiers
            if match.match_targets(name, linear, [target]) and not match.match_targets(name, linear, ignore)
        ]
        ours = plan.scheme_for(name)
        assert theirs == ([] if ours is None or ours.weights is None else [ours.weights.fmt.bits]), name


@pytest.mark.parametrize("text", ["W4A16,gptq", "W8A8", "FP8"])
def test_the_script(text: str) -> None:
    program = script(text, "owner/model")
    compile(program, "quantize.py", "exec")
    assert len(program.splitlines()) <= 17
    assert ("dataset=" in program) == Scheme.parse(text).needs_text
    assert "model.save_pretrained('model-quantized'" in program
    assert "model.save_pretrained('served'" in script(text, "owner/model", "served")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "owner/name@v1",
            ["from_pretrained('owner/name', revision='v1', dtype=", "from_pretrained('owner/name', revision='v1')"],
        ),
        ("/models/me@home", ["from_pretrained('/models/me@home', dtype=", "from_pretrained('/models/me@home')"]),
        (
            "/models/m.Q4_1.gguf",
            [
                "AutoTokenizer, GgufConfig\n",
                "from_pretrained('/models', gguf_file='m.Q4_1.gguf', dtype=\"auto\", quantization_config=Gguf",
                "from_pretrained('/models', gguf_file='m.Q4_1.gguf')\n",
            ],
        ),
        ("m.gguf", ["from_pretrained('.', gguf_file='m.gguf'"]),
    ],
)
def test_the_script_opens_what_was_loaded(model: str, words: list[str]) -> None:
    """transformers takes a GGUF file for a configuration, and a revision for a part of the name."""
    program = script("FP8", model)
    compile(program, "quantize.py", "exec")
    assert [one for one in words if one not in program] == []


def test_the_script_learns_from_no_longer_texts_than_the_model_was_made_for() -> None:
    for context, length in ((512, 512), (8192, 2048), (None, 2048)):
        assert f"max_seq_length={length},\n" in script("W4A16,gptq", "m", context=context)


@pytest.mark.parametrize("text", TEXTS)
def test_llm_compressor_reads_it(text: str) -> None:
    recipes = pytest.importorskip("llmcompressor.recipe", reason="llm-compressor is not installed")
    made = recipes.Recipe.create_instance(recipe(text))
    assert [type(one).__name__ for one in made.modifiers] == [kind for group in stages(text) for kind in group]
    for modifier, group in zip(made.modifiers, stages(text), strict=True):
        (body,) = group.values()
        if "config_groups" not in body:
            continue
        config = modifier.resolved_config
        assert config.ignore == body["ignore"]
        for name, one in body["config_groups"].items():
            theirs = config.config_groups[name]
            assert theirs.targets == one["targets"]
            said = {key: getattr(theirs.weights, key) for key in one["weights"]}
            words = {key: str(value) if isinstance(value, torch.dtype) else value for key, value in said.items()}
            assert words == one["weights"]
            if "actorder" in body:
                assert theirs.weights.actorder == body["actorder"]


def test_the_script_says_what_experts_see() -> None:
    """Its default lets every token through every expert; ours lets the router choose."""
    assert "moe_calibrate_all_experts=False" in script("W4A16,gptq", "m")
    assert "moe_calibrate_all_experts=True" in script("W4A16,gptq,experts=all", "m")
    assert "moe_calibrate" not in script("W4A16", "m")


def test_llm_compressor_takes_the_script() -> None:
    llmcompressor = pytest.importorskip("llmcompressor", reason="llm-compressor is not installed")
    call = script("FP8", "m").split("oneshot(\n")[1].split("\n)")[0]
    names = {line.split("=")[0].strip() for line in call.splitlines()}
    assert names <= set(inspect.signature(llmcompressor.oneshot).parameters)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules")  # theirs, without a GPU
@pytest.mark.parametrize(
    "text", ["w:int4/group32@down_proj=w:int8/channel", "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic"]
)
def test_llm_compressor_makes_the_same_checkpoint(text: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Its run of our recipe and our own export: the same tensors under the same names, bit for bit."""
    llmcompressor = pytest.importorskip("llmcompressor", reason="llm-compressor is not installed")
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    (tmp_path / "recipe.yaml").write_text(recipe(text), encoding="utf-8")
    llmcompressor.oneshot(
        model=theirs, tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), recipe=str(tmp_path / "recipe.yaml")
    )
    theirs.save_pretrained(tmp_path / "theirs", save_compressed=True)
    export_checkpoint(load_model(str(tiny_model_dir), "cpu"), text, tmp_path / "ours")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_smoothing_through_linears_has_no_recipe() -> None:
    with pytest.raises(ValueError, match="folds into norms alone .* write smooth=0.8"):
        recipe("W8A8,smooth=0.8/all")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("smoothing_strength: 0", None),
        ("algorithm: log_equalization", "has the algorithm 'log_equalization', which this lab has not"),
        ("mappings: []", "has 'mappings', which this lab does not know"),
        ("smoothing_strength: high", "not a number"),
        ("smoothing_strength: 1.5", "smooth=1.5 is outside 0 to 1"),
    ],
)
def test_a_smoothquant_modifier_is_read(field: str, message: str | None) -> None:
    before = recipe("W8A8").replace("quantization_stage:", f"a:\n  b:\n    SmoothQuantModifier: {{{field}}}\nquant:", 1)
    if message is None:
        assert plan_from_recipe(before) == Plan.parse("W8A8")
    else:
        with pytest.raises(ValueError, match=message):
            plan_from_recipe(before)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("QuIPModifier: {}", "quip=signed"),
        ("QuIPModifier: {rotations: [V], transform_type: hadamard, transform_block_size: 64}", "quip=hadamard/64"),
        ("QuIPModifier: {targets: Linear, ignore: [lm_head]}", "quip=signed"),
        ("SpinQuantModifier: {rotations: [R1, R2, R4]}", "rotate=hadamard/r4"),
    ],
)
def test_other_peoples_turns_are_read(body: str, said: str) -> None:
    text = recipe("W4A4").replace("quantization_stage:", f"a:\n  b:\n    {body}\nquant:", 1)
    assert plan_from_recipe(text) == Plan.parse(f"W4A4,{said}")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("QuIPModifier: {rotations: [v, u]}", "has the rotations v, u; this lab turns inputs alone"),
        ("QuIPModifier: {transform_type: random-matrix}", "QuIPModifier has random-matrix, which this lab has not"),
        ("QuIPModifier: {ignore: ['re:.*q_proj']}", "has ignore re:.*q_proj; here every Linear that is quantized"),
        ("QuIPModifier: {transform_block_size: 48}", "a block of 48 channels is no power of two"),
        ("SpinQuantModifier: {rotations: [R1, R2, R3]}", "has the rotations R1, R2, R3; this lab has R1 with R2"),
        ("SpinQuantModifier: {rotations: [R1, R2, R4], transform_type: random-matrix}", "/r4 turns by Hadamard's"),
    ],
)
def test_turns_that_this_lab_has_not_are_refused(body: str, message: str) -> None:
    text = recipe("W4A4").replace("quantization_stage:", f"a:\n  b:\n    {body}\nquant:", 1)
    with pytest.raises(ValueError, match=message):
        plan_from_recipe(text)


def test_wush_has_no_recipe() -> None:
    with pytest.raises(ValueError, match="it has no wush; use quip=hadamard"):
        recipe("MXFP4,wush=32")
