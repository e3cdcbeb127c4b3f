"""Model folders that are incomplete, that lie, or that are hostile, each made of a good one by one change.

BROKEN[what is wrong] = (change(folder), the sentence, as a regular expression, with which it is refused)
GOOD[what is odd] = change(folder), which is no reason to refuse
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from tests.model.changes import (
    GENERATION,
    INDEX,
    Change,
    at,
    besides,
    both,
    coded,
    config,
    deep,
    elsewhere,
    header_of,
    i32,
    named,
    place,
    ranks,
    say,
    scales,
    sharded,
    text,
    u8,
    weights,
    without,
)

DOWN, HEAD, NORM = "model.layers.1.mlp.down_proj.weight", "lm_head.weight", "model.norm.weight"
AGAIN = "download config.json and weights again, from one place"
BY = "is quantized already .by {}.*give the float model"


PIPE: Change = os.mkfifo
ODD: dict[str, Change] = {
    "a pipe": PIPE,
    "a folder": Path.mkdir,
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to /dev/zero": lambda file: file.symlink_to("/dev/zero"),
}
EXTRA = torch.ones(2, 2)
MASK = torch.ones(2, 2, dtype=torch.bool)

BROKEN: dict[str, tuple[Change, str]] = {
    # ---- tensors that are not there, or are of another model
    "a weight is missing": (without(DOWN), f"its files lack '{DOWN}', which would be random numbers; {AGAIN}"),
    "a norm is missing": (without(NORM), f"its files lack '{NORM}'"),
    "the embedding table is missing": (without("embed_tokens"), "its files lack 'model.embed_tokens.weight'"),
    "no head, and none tied": (without(HEAD), "lack 'lm_head.weight', which its config.json does not tie.*to true"),
    "a block is missing": (without("layers.1."), "lack 'model.layers.1.input_layernorm.weight' and 8 more tensors"),
    "a block more in config.json": (config(num_hidden_layers=3), "lack 'model.layers.2.* and 8 more tensors"),
    "a block less in config.json": (config(num_hidden_layers=1), "hold 'model.layers.1.* and 8 more.* has no place"),
    "torch.compile's prefix": (named("_orig_mod.{}".format), "rename them without '_orig_mod.', which torch.compile"),
    "a training wrapper's prefix": (named("module.{}".format), "rename them without 'module.'"),
    "nothing at all": (weights(lambda _: {}), "its config.json says .* and its files hold 0"),
    "names of another architecture": (named(lambda n: n.replace("mlp", "ffn")), "its files lack .*mlp"),
    "a weight left over": (
        besides(model__layers__0__mlp__extra__weight=EXTRA),
        "hold 'model.layers.0.mlp.extra.weight', ",
    ),
    "a mask left over, named weight": (besides(model__mask__weight=MASK), "hold 'model.mask.weight', for which"),
    "a value head left over": (besides(v_head__summary__weight=EXTRA), "hold 'v_head.summary.weight', for which"),
    "scales left over beside floats": (
        besides(**{DOWN.replace(".", "__") + "_scale": EXTRA}),
        f"hold '{DOWN}_scale', for",
    ),
    # ---- tensors of another shape or type
    "a weight transposed": (at(DOWN, lambda one: one.T), r"has shape \(128, 64\) in its files .* says \(64, 128\)"),
    "a norm too short": (at(NORM, lambda one: one[1:]), rf"'{NORM}' has shape \(63,\) in its files .* says \(64,\)"),
    "another vocabulary": (config(vocab_size=301), r"has shape \(300, 64\) in its files and .* says \(301, 64\)"),
    "another width": (config(hidden_size=128), "has shape .* in its files and its config.json says"),
    "a norm of whole numbers": (at(NORM, Tensor.char), f"hold '{NORM}' as I8, which is no float type"),
    "a weight of truths": (at(DOWN, lambda one: one > 0), f"hold '{DOWN}' as BOOL, which is no float type"),
    "a head of 64-bit numbers": (at(HEAD, Tensor.long), f"hold '{HEAD}' as I64, which is no float type"),
    "one weight in 8-bit floats": (at(DOWN, lambda one: one.to(torch.float8_e4m3fn)), f"hold '{DOWN}' as F8_E4M3"),
    "weights of bytes": (coded(lambda one: {".weight": one.char()}), "hold .* and 13 more tensors as I8"),
    "a head beside a tied table": (config(tie_word_embeddings=True), "ties 'lm_head.weight' to .* they differ; set"),
    # ---- quantized already, said by the tensors alone
    "bitsandbytes, 8 bits": (
        coded(lambda one: {".weight": one.char(), ".SCB": one[:, 0]}),
        BY.format("bitsandbytes: its files hold SCB"),
    ),
    "bitsandbytes, 4 bits": (
        coded(
            lambda one: {
                ".weight": u8(one),
                ".weight.absmax": one[0],
                ".weight.quant_map": one[1],
                ".weight.quant_state.bitsandbytes__nf4": u8(one),
            }
        ),
        BY.format("bitsandbytes"),
    ),
    "AutoGPTQ": (
        coded(lambda one: {".qweight": i32(one), ".qzeros": i32(one), ".scales": scales(one), ".g_idx": ranks(one)}),
        BY.format("AutoGPTQ or GPTQModel: its files hold qweight and qzeros and g_idx"),
    ),
    "AutoAWQ": (
        coded(lambda one: {".qweight": i32(one), ".qzeros": i32(one), ".scales": scales(one)}),
        BY.format("AutoAWQ"),
    ),
    "fp8 by blocks": (
        coded(lambda one: {".weight": one.to(torch.float8_e4m3fn), ".weight_scale_inv": one[:1, :1] + 0}),
        BY.format("block-wise fp8"),
    ),
    "compressed-tensors, packed": (
        coded(lambda one: {".weight_packed": i32(one), ".weight_scale": scales(one), ".weight_shape": ranks(one)[:2]}),
        BY.format("compressed-tensors"),
    ),
    "compressed-tensors, int8": (
        coded(lambda one: {".weight": one.char(), ".weight_scale": scales(one)}),
        BY.format("compressed-tensors, FBGEMM or ModelOpt"),
    ),
    "ModelOpt's NVFP4": (
        coded(lambda one: {".weight": u8(one), ".weight_scale": scales(one), ".weight_scale_2": one[0, :1]}),
        BY.format("NVIDIA ModelOpt"),
    ),
    "MLX": (
        coded(lambda one: {".weight": i32(one).to(torch.uint32), ".scales": scales(one), ".biases": scales(one)}),
        BY.format("MLX"),
    ),
    "MLX's MXFP4": (coded(lambda one: {".weight": i32(one).to(torch.uint32), ".scales": u8(one)}), BY.format("MLX or")),
    "SpQR": (coded(lambda one: {".dense_weights": i32(one).long(), ".row_offsets": ranks(one)}), BY.format("SpQR")),
    "HIGGS": (
        coded(lambda one: {".weight": i32(one).short(), ".scales": scales(one), ".tables": one, ".tables2": one + 1}),
        BY.format("HIGGS"),
    ),
    "HQQ": (coded(lambda one: {".W_q": u8(one), ".scale": scales(one), ".zero": scales(one)}), BY.format("HQQ")),
    "optimum-quanto": (
        coded(lambda one: {".weight._data": one.char(), ".weight._scale": scales(one)}),
        BY.format("optimum-quanto"),
    ),
    "torchao": (
        coded(lambda one: {".weight:qdata": one.char(), ".weight:scale": scales(one)}),
        BY.format("torchao"),
    ),
    "ExLlamaV2": (coded(lambda one: {".q_weight": i32(one), ".q_scale": i32(one)}), BY.format("ExLlamaV2")),
    "AQLM": (
        coded(lambda one: {".codes": i32(one), ".codebooks": one, ".scales": scales(one)}),
        BY.format("AQLM"),
    ),
    # ---- quantized already, said in config.json
    **{
        f"quantization_config of {method}": (config(quantization_config={"quant_method": method}), BY.format(library))
        for method, library in {
            "gptq": "AutoGPTQ or GPTQModel",
            "awq": "AutoAWQ",
            "bitsandbytes": "bitsandbytes",
            "fp8": "block-wise fp8",
            "compressed-tensors": "compressed-tensors",
            "hqq": "HQQ",
            "quanto": "optimum-quanto",
            "torchao": "torchao",
            "mxfp4": "MXFP4",
            "modelopt": "NVIDIA ModelOpt",
            "nobody's": "nobody's",
        }.items()
    },
    "quantization_config of no method": (
        config(quantization_config={"bits": 4}),
        BY.format("a method that .* not name"),
    ),
    "an empty quantization_config": (
        config(quantization_config={}),
        BY.format("a method that its config.json does not"),
    ),
    "load_in_4bit": (config(quantization_config={"load_in_4bit": True}), BY.format("bitsandbytes")),
    "compression_config": (
        config(compression_config={"quant_method": "compressed-tensors"}),
        BY.format("compressed-t"),
    ),
    "MLX's quantization": (config(quantization={"group_size": 64, "bits": 4}), BY.format("MLX")),
    "quantization_config of the language part": (
        config(text_config={"quantization_config": {"quant_method": "awq"}}),
        BY.format("AutoAWQ"),
    ),
    "quantization_config is a word": (config(quantization_config="x"), "quantization_config = 'x', which is no object"),
    "quantization_config is a list": (
        config(quantization_config=[1]),
        r"quantization_config = \[1\], which is no object",
    ),
    # ---- files that lie
    "an index of whole numbers": (text('{"weight_map": {"a": 1}}', INDEX), "holds no weight_map of tensors' names"),
    "an index of nothing": (text('{"weight_map": {}}', INDEX), "holds no weight_map"),
    "an index without a map": (text('{"metadata": {}}', INDEX), "holds no weight_map"),
    "an index that is a list": (text("[]", INDEX), "holds a list, not an object"),
    "an index that is no JSON": (text("{", INDEX), "is no JSON"),
    "an index longer than the headers": (text('{"weight_map": ' + " " * 1_100_000 + "{}}", INDEX), "are read at most"),
    "an index that leads up": (elsewhere(lambda _: "../elsewhere/model.safetensors"), "leads out of its folder"),
    "an index that leads to a path": (elsewhere(lambda other: f"{other}/model.safetensors"), "leads out of its folder"),
    "an index that leads to a link": (elsewhere(lambda _: "linked.safetensors", link=True), "leads out of its folder"),
    "an index that leads to a folder": (elsewhere(lambda _: ".."), "leads out of its folder"),
    "an index of a name with a zero": (elsewhere(lambda _: "a\0b"), "leads out of its folder"),
    "an index of half a character": (elsewhere(lambda _: "\ud800"), r"names '\?', which no file can be called"),
    "an index of a name of 300 letters": (elsewhere(lambda _: "n" * 300), "which no file can be called; download it"),
    "an adapter beside the model": (text("{}", "adapter_config.json"), "holds an adapter .*; merge it into its model"),
    "an index of a file that is not there": (
        sharded(lambda _, file: file.replace("00002-", "00003-")),
        "lacks .*00003-of",
    ),
    "an index that leaves a file out": (sharded(lambda _, file: "1-of" in file and file or ""), "its files lack"),
    "an index of a tensor that is elsewhere": (sharded(move=DOWN), f"says that '{DOWN}' is in .*, which lacks it"),
    "an index of a tensor that is nowhere": (
        both(sharded(), lambda folder: say(folder, "model.extra.weight")),
        "says that 'model.extra.weight' is in .*, which lacks it",
    ),
    "a tensor in two files": (sharded(twice=DOWN), f"'{DOWN}' is both in .* and in .*, so which one counts"),
    "weights that break off": (lambda folder: os.truncate(folder / "model.safetensors", 300_000), "a part of one"),
    "weights of no byte": (text(b"", "model.safetensors"), "is no safetensors file, or a part of one .0 bytes"),
    "weights of text": (text(b"not weights, but words", "model.safetensors"), "is no safetensors file"),
    "a header longer than its file": (header_of(10**6), "is no safetensors file, or a part of one"),
    "a header of 2^63 bytes": (header_of(2**63), "should have 9,223,372,036,854,775,808 bytes"),
    "a header of 99 MB": (header_of(99_000_000, 99_000_100), "should have 99,000,000 bytes, and 16,777,216 are read"),
    "a header that is no JSON": (text((9).to_bytes(8, "little") + b"[1, 2, 3]", "model.safetensors"), "no safetensors"),
    # ---- no plain files, which would be waited for or read without end; links that lead nowhere
    **{
        f"{what} called {name}": (place(name, put), f"its '{name}' is no plain file; put the file there")
        for what, put in ODD.items()
        for name in ("config.json", "model.safetensors", INDEX, "tokenizer.json", "generation_config.json")
    },
    "a pipe among weights": (
        both(
            lambda folder: (folder / "model.safetensors").rename(folder / "a.safetensors"), place("b.safetensors", PIPE)
        ),
        "its 'b.safetensors' is no plain file",
    ),
    # ---- generation_config.json
    "generation_config.json is no JSON": (
        text("[", GENERATION),
        "generation_config.json is no JSON.*or delete its",
    ),
    "generation_config.json of no known words": (
        text('{"watermarking_config": {"zz": 1}}', GENERATION),
        "transformers does not take it .*or delete its generation_config.json, which no figure needs",
    ),
    # ---- config.json
    "config.json with a byte order mark": (text("\ufeff{}"), "config.json is no JSON .*BOM"),
    "config.json in UTF-16": (text('{"model_type": "llama"}'.encode("utf-16")), "config.json is no JSON"),
    "config.json is a list": (text("[]"), "config.json holds a list, not an object"),
    "config.json is a word": (text('"llama"'), "config.json holds a str, not an object"),
    "config.json is empty": (text(""), "config.json is no JSON"),
    "config.json is no UTF-8": (text(b'{"model_type": "\xff"}'), "config.json is no JSON"),
    "config.json of 5 MB": (text('{"model_type": "llama", "a": "' + "a" * 5_000_000 + '"}'), "are read at most"),
    "config.json 10,000 levels deep": (text(deep(10_000)), "config.json nests deeper than 64 levels"),
    "config.json 100 levels deep": (text(deep(100)), "config.json nests 101 levels deep"),
    "config.json with NaN": (text('{"model_type": "llama", "rms_norm_eps": NaN}'), "it holds NaN, which is no number"),
    "config.json with NaN in transformers' way": (config(rms_norm_eps={"__float__": "NaN"}), "holds NaN, which is no"),
    "no model_type": (text("{}"), "config.json names no model_type"),
    "an unknown model_type": (config(model_type="nonesuch"), "transformers cannot build .*nonesuch.*try another model"),
    "a model that is only code": (
        config(model_type="nonesuch", auto_map={"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}),
        "transformers cannot build .*try another model",
    ),
    "a model that is no language model": (
        config(model_type="vit"),
        "transformers has no causal language model of type 'vit'",
    ),
    "a million blocks": (
        config(num_hidden_layers=10**6),
        "num_hidden_layers = 1,000,000 and its files hold 21 tensors",
    ),
    "a million blocks in a part": (
        config(vision_config={"num_hidden_layers": 10**6}),
        "= 1,000,000 and its files hold",
    ),
    "10^18 blocks": (config(num_hidden_layers=10**18), "num_hidden_layers = 1,000,000,000,000,000,000 and its files"),
    "10^4000 blocks": (config(num_hidden_layers=10**4000), "num_hidden_layers = 10,0.* and its files hold"),
    "a word of blocks": (config(num_hidden_layers="2"), "num_hidden_layers = '2', which is no whole number"),
    "-1 blocks": (config(num_hidden_layers=-1), "num_hidden_layers = -1, which is no whole number of at least 1"),
    "no blocks": (config(num_hidden_layers=0), "num_hidden_layers = 0, which is no whole number of at least 1"),
    "2.0 blocks": (config(num_hidden_layers=2.0), "num_hidden_layers = 2.0, which is no whole number"),
    "as many blocks as truth": (config(num_hidden_layers=True), "num_hidden_layers = True, which is no whole number"),
    "a list of blocks": (config(num_hidden_layers=[2]), r"num_hidden_layers = \[2\], which is no whole number"),
    "a width of 0": (config(hidden_size=0), "hidden_size = 0, which is no whole number of at least 1"),
    "a width of 10^12": (
        config(hidden_size=10**12),
        "hidden_size = 1,000,000,000,000 and its files hold 112,",
    ),
    "a vocabulary of 0": (config(vocab_size=0), "vocab_size = 0, which is no whole number of at least 1"),
    "no position": (config(max_position_embeddings=0), "max_position_embeddings = 0, which is no whole number"),
    "-1 positions": (config(max_position_embeddings=-1), "max_position_embeddings = -1, which is no whole number"),
    "10^9 labels": (config(num_labels=10**9), "num_labels = 1,000,000,000 and its files hold 21 tensors"),
    "10^9 heads": (config(num_attention_heads=10**9), "num_attention_heads = 1,000,000,000 and its files hold"),
    "no heads": (config(num_attention_heads=0), "transformers cannot build|has shape"),
    "5 heads": (config(num_attention_heads=5), "transformers cannot build|has shape"),
    **{  # with which every activation would be zero, or no position count, and every scheme look free
        f"{name} of {value}": (config(**{name: value}), f"'{inner}' = .*, which lies between .*; download it")
        for name, inner, values in (
            ("rms_norm_eps", "rms_norm_eps", (1e30, -1e-6, 5, float("inf"), {"__float__": "Infinity"})),
            ("rope_theta", "rope_theta", (0, -1e4, 1e300)),
            ("rope_parameters", "rope_theta", ({"rope_type": "default", "rope_theta": float("inf")},)),
            ("rope_parameters", "factor", ({"rope_type": "linear", "factor": -1.0, "rope_theta": 1e4},)),
            ("rope_parameters", "factor", ({"rope_type": "yarn", "factor": 1e9, "rope_theta": 1e4},)),
            ("partial_rotary_factor", "partial_rotary_factor", (2, -1)),
        )
        for value in values
    },
    "weights of another name": (
        config(transformers_weights="other.safetensors"),
        "has transformers_weights, which is not",
    ),
    "attention of somebody's code": (
        config(attn_implementation="owner/kernel"),
        "'attn_implementation' = 'owner/kernel', a kernel of the hub, which is code; delete the entry",
    ),
    "attention of somebody's code in a part": (
        config(text_config={"_attn_implementation_internal": {"": "owner/kernel"}}),
        "a kernel of the hub, which is code",
    ),
    **{
        f"{value} for attention": (
            config(**{name: value}),
            f"'{name}' = '{value}', a kernel that is compiled, or installed, apart .*; delete the entry",
        )
        for name, value in (
            ("attn_implementation", "flex_attention"),  # compiles for minutes
            ("_attn_implementation", "flash_attention_2"),
            ("attn_implementation", "nonesuch"),
        )
    },
    "another configuration": (
        config(configuration_files=["config.4.0.0.json"]),
        "has configuration_files, which is not",
    ),
    "a patch of transformers": (config(fusion_config={"a": 1}), "has fusion_config, which is not followed here"),
}


GOOD: dict[str, Change] = {
    "as it was written": lambda _: None,
    "in two files with an index": sharded(),
    "in a file of another name": lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
    "in half precision": weights(lambda held: {name: one.half().float().half() for name, one in held.items()}),
    "in double precision": weights(lambda held: {name: one.double() for name, one in held.items()}),
    "with frequencies that older files keep": besides(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8)),
    "with masks that older files keep": besides(
        model__layers__0__self_attn__bias=torch.ones(1, 1, 8, 8, dtype=torch.bool),
        model__layers__0__self_attn__masked_bias=torch.tensor(-1e9),
    ),
    "without a quantization": config(quantization_config=None),
    "answers as tuples": config(return_dict=False),
    "attention as torch has it": config(attn_implementation="eager"),
    "with an infinity": config(time_step_limit=[0.0, float("inf")]),
}
