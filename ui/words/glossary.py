"""The words of this field that our pages use, two lines each. `ui.components.glossary` shows them wherever they stand.

    WORDS["SQNR"]       what it is, and how to read it

A word is written here as the pages write it; ALIKE lists its other forms, in which # stands for a number: group# is
group128, p# is p99.9. Where a word has a formula, it is given in plain text: a tooltip draws none.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

MOST_CHARACTERS = 230  # about two lines of a tooltip

WORDS: Final[dict[str, str]] = {
    # how good
    "SQNR": "Signal to quantization noise, in dB: power of the values over power of their error. 6 dB more is half the "
    "error; 0 dB means the error is as large as the values.",
    "dB": "Decibel: ten times the logarithm of a ratio of powers. +10 dB is ten times the power, +6 dB about twice the "
    "size, which one more bit brings.",
    "KL": "How far the quantized model's next-token probabilities moved from the float model's (Kullback-Leibler "
    "divergence), in nats. 0: nothing changed. It sees what perplexity hides.",
    "nats": "Unit of information with the natural logarithm. 0.01 nats is a change hardly seen in text; 1 nat is "
    "another model.",
    "perplexity": "Among how many equally likely tokens the model seems to choose: the exponential of the mean "
    "surprise over a text. Lower is better; compare on one text only.",
    "beyond chance": "The 95% interval of the paired difference does not hold 0, nor does that of rounding luck where "
    "it is measured. Within chance: the two are not told apart.",
    "interval": "The 95% interval: where a figure would lie in 19 of 20 such texts. An interval of a difference "
    "without 0 tells two schemes apart.",
    "Holm": "Holm's correction: the more comparisons, the higher the bar, so that in 95% of tables no difference is "
    "called real that chance has made.",
    "rounding luck": "Scales moved by a grain round some weights the other way. A difference that such a move makes "
    "says nothing of a scheme.",
    "cosine": "Of the angle between two vectors: 1 where they point the same way, 0 where they have nothing in common. "
    "Length is not seen.",
    "correlation": "How much two inputs go together: +1 always, 0 not at all, -1 always the other way round.",
    "median token": "With all tokens sorted by their SQNR, the one in the middle. A giant token, which can speak for "
    "the whole tensor, does not move it.",
    "giant token": "A token, mostly the first, whose values in some layers are a hundred times the others'. A scale "
    "that it shares is made for it alone.",
    "RMS": "Root of the mean square: a usual size of the errors, in which large ones count most.",
    "ppm": "Parts per million: 1,000 ppm are 0.1%.",
    "percentile": "p99.9 is the value with 0.1% of all values beyond it. A range cut there clips those, and gives all "
    "others finer steps.",
    "kurtosis": "How heavy the tails are: mean fourth power over the squared variance. 3 for a normal distribution; "
    "hundreds where few values dwarf the rest.",
    # the number line
    "quantization": "Keeping each number as one of a few codes, such as 16. What is stored is the code; scale and zero "
    "point bring it back, nearly.",
    "code": "The small integer (or tiny float) that is stored in place of a number: one of 16 with 4 bits, of 256 with "
    "8.",
    "scale": "What one step of the codes is worth, S. A scale reaches the largest value that shares it; the real value "
    "is S times (code - Z).",
    "zero point": "The code that stands for the real 0, Z. With it a grid fits values that lie to one side; without it "
    "(symmetric) 0 is in the middle.",
    "symmetric": "A grid with 0 in its middle and no zero point: the same reach to both sides, even where values use "
    "one only.",
    "asymmetric": "A grid from the least to the greatest value, with a zero point. No code is kept for a side without "
    "values.",
    "clip": "To set what lies beyond a range to its end. Those values err more, all others get finer steps.",
    "bits per weight": "All bits of codes, scales and zero points, over the number of weights: int4 in groups of 128 "
    "is 4 + 16/128 = 4.125.",
    "int4": "Integers of 4 bits: 16 codes at equal distances. int8 has 256, int3 has 8, int2 has 4.",
    "fp8": "Floating point in 8 bits. e4m3 has 4 bits of exponent and 3 of mantissa: steps grow with the value, so "
    "small ones keep their relative precision.",
    "fp4": "Floating point in 4 bits (e2m1): 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, times a scale.",
    "e8m0": "A power of two in 8 bits, as MXFP4 keeps its scales: half the bits of a float, but a scale may be up to "
    "twice what its weights need.",
    "MXFP4": "fp4 in blocks of 32, each with a power of two as scale (e8m0). NVFP4: blocks of 16, each with an fp8 "
    "scale, and one float scale for the whole tensor.",
    "x_hat": "What a code brings back: S times (q - Z). The error is x_hat - x, at most half a step where nothing is "
    "clipped.",
    "float model": "The model as it came, in floating point of 16 or 32 bits. All that is quantized is compared with "
    "it.",
    "bf16": "The 16-bit float that models are stored in: the range of float32, 8 bits of precision.",
    "RTN": "Rounding to nearest: each number takes the nearest level, for itself. What GPTQ is compared with.",
    # who shares a scale
    "grid": "All values that a format's codes can stand for at one scale and zero point. Numbers go to the nearest.",
    "tile": "The numbers that share a scale; on pages about GPTQ, a few rows and columns of a real layer.",
    "wall": "A channel that is loud on token after token: in the picture of tokens x channels it stands like a wall.",
    "granularity": "Who shares a scale: the whole tensor, a row (channel), a group of neighbours in a row, a block, a "
    "token. Smaller tiles, more scales.",
    "tensor": "A weight, or what enters a layer, as a whole. Per tensor: one scale for all of it.",
    "channel": "A row of a weight (output channel), or one number of each token (input channel). Per channel: a scale "
    "a row.",
    "group": "Neighbouring weights of a row that share a scale, such as 128. Smaller groups err less and cost more "
    "bits.",
    "token": "A piece of text the model reads or writes, often a word or part of one. Per token: each gets a scale of "
    "its own, at run time.",
    "outlier": "A value, channel or token far larger than the rest. A scale that must reach it leaves few codes for "
    "everybody else.",
    # layers
    "block": "A stage of the model, attention and then an MLP; block 0 comes first. Where scales are meant: weights "
    "that share one, such as 32 in a row, or a square of 128 x 128.",
    "attention": "The part of a block that lets tokens look back at others, by queries, keys and values: q_proj, "
    "k_proj, v_proj; o_proj hands on what was found.",
    "MLP": "The part of a block behind attention, for each token alone: up_proj and gate_proj widen it, down_proj "
    "brings it back.",
    "expert": "In a mixture a block has many MLPs, its experts, and a router sends each token through a few of them.",
    "embeddings": "A vector for each token of the vocabulary, which the model begins with. They stay in float, and so "
    "do norms, which keep the size of vectors steady.",
    "hidden states": "What goes from block to block: a vector for each token of the text.",
    "rotary": "How attention knows where a token stands: pairs of channels of queries and keys are turned, the further "
    "the later the token.",
    "tokenizer": "It cuts text into tokens and numbers them.",
    "Linear": "A layer that multiplies by a weight: y = x W^T. Nearly all of a model's numbers are in such weights.",
    "layer": "A table of weights that a block of the model multiplies by: here mostly one Linear, such as q_proj, "
    "k_proj, v_proj, o_proj (attention) or gate_proj, up_proj, down_proj (MLP).",
    "lm_head": "The last Linear: from the hidden state to a score for every token. Usually left in float, for it "
    "decides the next word directly.",
    "down_proj": "The second half of a block's MLP. What enters it holds the giant values of the first token in many "
    "models.",
    "activation": "What flows through the model while it reads: here, what enters a Linear. It is there at run time "
    "only.",
    "weight": "A learned number of the model, fixed after training. Weights can be quantized once, ahead.",
    "KV cache": "Keys and values of all tokens so far, which attention looks back at. It grows with context and batch.",
    "context": "How many tokens the model can look at together.",
    # ranges
    "calibration": "Letting the model read some text to learn ranges, or what GPTQ needs. Figures depend on that text.",
    "static": "A range recorded on calibration text and frozen. Free at run time; what goes beyond it later is "
    "clipped.",
    "dynamic": "A range taken from the values at hand, at run time. It fits always and costs a little time.",
    "range": "From the least to the greatest value that the codes cover.",
    "min-max": "The range of all values seen: nothing is clipped, and one outlier stretches every step.",
    "moving average": "A range that follows each step's least and greatest value with a momentum. Rare peaks are "
    "clipped.",
    "observer": "What watches values on calibration text and settles the range: min-max, moving average, a percentile, "
    "or mse.",
    "mse": "The range with which rounding does the least squared error to what was seen.",
    # GPTQ
    "GPTQ": "Rounds a weight column by column and moves the columns still to come so that the layer's output changes "
    "least. Frantar et al. 2022, arXiv:2210.17323.",
    "Hessian": "H = X^T X, summed over calibration tokens: which inputs are loud, and which go together. GPTQ's loss "
    "of an error e is e H e^T.",
    "diag(H)": "The diagonal of the Hessian: each input's sum of squares over the calibration tokens, that is, how "
    "loud it is.",
    "damping": "A little added to diag(H) so that it can be inverted: a share, 0.01, of its mean. More damping, more "
    "careful pushes.",
    "act order": "Visiting the columns of GPTQ from the loudest to the quietest, so that the loud have many left to "
    "make up for them (actorder, desc_act).",
    "g_idx": "The group of each column, stored where groups follow the order of visit. It costs a look-up in every "
    "product.",
    # treatments
    "SmoothQuant": "Divides loud channels of the activations and multiplies the weights behind them by the same, so "
    "that both are halfway hard: smooth=0.5.",
    "AWQ": "Multiplies weights that meet large inputs before they are rounded, by scales that are tried, and divides "
    "what enters by the same.",
    "Hadamard": "A matrix of +1 and -1 that spreads what one channel has alone over all. It undoes itself, so nothing "
    "is lost.",
    "Qronos": "GPTQ on weights that first make up for what quantized layers before have done to the inputs.",
    "GPTAQ": "GPTQ in which each column also hands on what its own input has lost to quantized layers before.",
    "WUSH": "Matrices for blocks of channels that make weights and inputs equally large and spread them; done to the "
    "inputs when the model runs.",
    "loss": "How much worse quantization makes it. On pages about GPTQ the squared change of the layer's output on the "
    "calibration text, else the KL of the whole model.",
    # shipping
    "scheme": "What becomes of weights and inputs, as one line of text: w:int4/group128 keeps weights as int4 in "
    "groups of 128.",
    "plan": "A scheme for all layers with exceptions for some: w:int3/group128@down_proj=w:int8/channel.",
    "duel": "Schemes on the same model and text, compared window by window, with intervals.",
    "W4A16": "Weights of 4 bits in groups of 128, activations of 16 bits. W8A8: 8 bits on both sides.",
    "FP8_DYNAMIC": "Weights as fp8 with a scale a row, activations as fp8 with a scale a token, taken at run time. "
    "FP8_BLOCK: weights share scales in squares of 128 x 128.",
    "checkpoint": "A folder with the model's numbers and settings, which transformers and vLLM load.",
    "recipe": "Instructions for llm-compressor, to make the same checkpoint of a larger model elsewhere.",
    "GGUF": "The file format of llama.cpp, with quantized blocks of its own.",
    "vLLM": "A server for language models that multiplies quantized weights on GPUs.",
    "roofline": "The least time that bytes and arithmetic allow on a GPU: whichever of the two takes longer.",
    "GPU": "The processor that multiplies. Which codes it multiplies itself decides what a scheme buys.",
    "kernel": "A program that runs on the GPU, such as one product of codes.",
    "Marlin": "vLLM's kernel for weights of 4 or 8 bits, which are unpacked to 16 bits as they arrive. Machete is its "
    "like for Hopper.",
    "Humming": "Kernels for products of codes that vLLM can use, compiled for the shapes at hand.",
    "Hopper": "A generation of NVIDIA's GPUs: Turing (7.5), Ampere (8.0, 8.6), Ada (8.9), Hopper (9.0), Blackwell (10, "
    "12). Each multiplies other codes itself.",
    "TFLOP/s": "Million million operations a second; TOP/s where they are done to integers. A product and a sum are "
    "two.",
    "dense": "Rates for usual weights. Sparse rates, twice as high, count on half of the weights being 0 in a fixed "
    "pattern.",
    "bandwidth": "How many bytes a second the GPU's memory hands over. While few tokens are written at once, it "
    "decides the speed.",
    "SXM": "A GPU for a server's own socket: more power, faster links. PCIe is the card for usual slots.",
    "decode": "Writing, one token a step, each of which reads all weights. Prefill: reading the prompt, many tokens at "
    "once.",
    "Triton": "The language in which this lab's GPU kernels are written.",
    "compressed-tensors": "How llm-compressor writes quantized checkpoints, and vLLM reads them.",
    "transformers": "Hugging Face's library that loads and runs models in Python.",
}

ALIKE: Final[dict[str, str]] = {
    "decibels": "dB",
    "percentiles": "percentile",
    "quantized": "quantization",
    "quantize": "quantization",
    "codes": "code",
    "coded cache": "KV cache",
    "grids": "grid",
    "tiles": "tile",
    "walls": "wall",
    "scales": "scale",
    "zero points": "zero point",
    "clipped": "clip",
    "clips": "clip",
    "bits a weight": "bits per weight",
    "int2": "int4",
    "int3": "int4",
    "int8": "int4",
    "e4m3": "fp8",
    "fp8_e4m3": "fp8",
    "rounding to nearest": "RTN",
    "channels": "channel",
    "groups": "group",
    "tokens": "token",
    "outliers": "outlier",
    "Linears": "Linear",
    "layers": "layer",
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), "layer"),
    "activations": "activation",
    "weights": "weight",
    "static range": "static",
    "frozen range": "static",
    "frozen": "static",
    "ranges": "range",
    "minmax": "min-max",
    "actorder": "act order",
    "schemes": "scheme",
    "plans": "plan",
    "W8A8": "W4A16",
    "checkpoints": "checkpoint",
    "recipes": "recipe",
    "GPUs": "GPU",
    "kernels": "kernel",
    "losses": "loss",
    "within chance": "beyond chance",
    "luck": "rounding luck",
    "intervals": "interval",
    "giant": "giant token",
    "giants": "giant token",
    **dict.fromkeys(("p#", "quartiles"), "percentile"),
    **dict.fromkeys(("int#", "int#_asym", "int#_narrow"), "int4"),
    **dict.fromkeys(("fp#_e#m#", "e#m#"), "fp8"),
    "fp4_e2m1": "fp4",
    **dict.fromkeys(("NVFP4", "MXFP8", "MXFP4A16", "NVFP4A16", "MXFP8A16"), "MXFP4"),
    **dict.fromkeys(("bfloat16", "float16", "float32", "fp16"), "bf16"),
    **{f"per-{word}": word for word in ("tensor", "channel", "group", "token")},
    "group#": "group",
    **dict.fromkeys(("blocks", "block#x#"), "block"),
    **dict.fromkeys(("experts", "router", "mixture"), "expert"),
    **dict.fromkeys(("embedding", "norms"), "embeddings"),
    "observers": "observer",
    **dict.fromkeys(("momentum", "ema"), "moving average"),
    "damp": "damping",
    "Hessians": "Hessian",
    **dict.fromkeys(("smooth", "smoothing"), "SmoothQuant"),
    **dict.fromkeys(("rotate", "rotation", "rotations"), "Hadamard"),
    **dict.fromkeys(("W#A#", "W#A#_asym", "W#AFP8"), "W4A16"),
    "FP8_BLOCK": "FP8_DYNAMIC",
    **dict.fromkeys(("roof", "roofs"), "roofline"),
    "Machete": "Marlin",
    **dict.fromkeys(("Turing", "Ampere", "Ada", "Blackwell"), "Hopper"),
    **dict.fromkeys(("TFLOPS", "TFLOP", "TOP/s"), "TFLOP/s"),
    "sparse": "dense",
    "PCIe": "SXM",
    "prefill": "decode",
    "llm-compressor": "compressed-tensors",
}

OTHERWISE: Final = ("source code",)  # a word of ours stands in it, and is not meant
ALONE: Final = ("code",)  # a text of this alone names something else: a kind of text


def pattern(form: str) -> str:
    """The regular expression of a form, for Python and for browsers."""
    return r"\d+(?:\.\d+)?".join(re.sub(r"[.*+?^${}()|\[\]\\]", r"\\\g<0>", part) for part in form.split("#"))


def forms() -> dict[str, str | None]:
    """Every form and the word it is a form of, None for what only looks like one; the first that fits is meant."""
    words: dict[str, str | None] = {form: form for form in WORDS} | ALIKE | dict.fromkeys(OTHERWISE)
    return {form: words[form] for form in sorted(words, key=lambda form: ("#" in form, -len(form)))}


def defined(word: str) -> str | None:
    """The word's two lines, whichever of its forms is asked for; None for a word that is not here."""
    for form, known in forms().items():
        if known is not None and re.fullmatch(pattern(form), word, re.IGNORECASE):
            return WORDS[known]
    return None


@cache
def first_defined(text: str) -> str | None:
    """The two lines of the first word of ours in a text, such as a column's name; None where there is none."""
    every = "|".join(pattern(form) for form in forms())
    for written in (text, text.replace("_", " ")):  # g_idx, input_sqnr_db
        if found := re.search(rf"(?<![\w-])(?:{every})(?![\w-])", written, re.IGNORECASE):
            return defined(found[0])
    return None
