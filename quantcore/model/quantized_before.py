"""Is a checkpoint quantized already, and by whom: said in its config.json, or only by the tensors that it holds.

What another scheme costs can only be told from float weights, so such a checkpoint is refused, with the library's name.
Quantizers keep codes (whole numbers, or 8-bit floats) beside scales, under names of their own: each line of MARKS is
one of them. Sources: the save functions of the libraries named, and transformers' quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantcore.model.config_file import entries
from quantcore.model.sentences import cut, named, quoted
from quantcore.model.weight_files import Stored

FLOATS = ("F64", "F32", "F16", "BF16")
KEYS = ("quantization_config", "compression_config", "quantization")
GPTQ, AWQ, BNB = "AutoGPTQ or GPTQModel", "AutoAWQ", "bitsandbytes"
METHODS = {  # quant_method in config.json -> the library
    "gptq": GPTQ,
    "awq": AWQ,
    "fp8": "block-wise fp8, DeepSeek's format",
    "quanto": "optimum-quanto",
    "modelopt": "NVIDIA ModelOpt",
    "mxfp4": "MXFP4, gpt-oss's format",
    "fbgemm_fp8": "FBGEMM",
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "quark": "AMD Quark",
    "auto-round": "AutoRound",
    "hqq": "HQQ",
    "eetq": "EETQ",
}
MARKS = (  # the last parts of tensors' names which only that library writes together; the first that fits counts
    (BNB, ("SCB",)),
    (BNB, ("absmax",)),
    (GPTQ, ("qweight", "qzeros", "g_idx")),
    (AWQ, ("qweight", "qzeros")),
    ("GPTQModel or another", ("qweight", "scales")),
    ("compressed-tensors", ("weight_packed",)),
    ("optimum-quanto", ("_data", "_scale")),
    ("torchao", ("qdata",)),
    ("torchao", ("weight_qdata",)),
    ("torchao", ("_weight_qdata",)),
    ("HQQ", ("W_q",)),
    ("ExLlamaV2", ("q_weight", "q_scale")),
    ("ExLlamaV3", ("trellis",)),
    ("AQLM", ("codes", "codebooks")),
    ("QuIP#", ("Qidxs",)),
    ("VPTQ", ("indices", "centroids")),
    ("SpQR", ("dense_weights",)),
    ("HIGGS", ("scales", "tables2")),
    ("NVIDIA ModelOpt", ("weight_scale_2",)),
    ("block-wise fp8, DeepSeek's format", ("weight_scale_inv",)),
    ("EETQ", ("weight_scales",)),
    ("compressed-tensors, FBGEMM or ModelOpt", ("weight_scale",)),
    ("MXFP4, gpt-oss's format", ("gate_up_proj_blocks", "gate_up_proj_scales")),
    ("MLX", ("scales", "biases")),
    ("MLX or another", ("scales",)),
)


def require_float(source: str, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
    """Raises: ValueError where the weights are codes of another quantizer, or of our own export."""
    said = next(((name, value) for name, value in entries(config) if name in KEYS and value is not None), None)
    if said is not None and not isinstance(said[1], dict):
        raise ValueError(
            f"could not load {named(source)}: its config.json says {said[0]} = {cut(repr(said[1]), 40)}, "
            "which is no object; delete the entry if the weights are float, or give the float model it was made from"
        )
    if said is not None:
        raise _refusal(source, f"by {_library_of(said[1])}")
    if (found := by_tensors(stored)) is not None:
        library, names = found
        raise _refusal(source, f"by {library}: its files hold {' and '.join(names)}")


def by_tensors(stored: Mapping[str, Stored]) -> tuple[str, tuple[str, ...]] | None:
    """The library whose tensors these are, and what its mark is; None where all are floats, or nothing is known."""
    if all(one.dtype in FLOATS for one in stored.values()):
        return None
    ends = {end for name in stored for end in (name.rpartition(".")[2], name.rpartition(":")[2])}
    return next(((library, mark) for library, mark in MARKS if ends.issuperset(mark)), None)


def _library_of(said: Mapping[str, Any]) -> str:
    method = said.get("quant_method")
    if isinstance(method, str):
        return METHODS.get(method, method if method.isprintable() and len(method) < 40 else quoted(method, 40))
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        return BNB
    return "MLX" if {"group_size", "bits"} <= set(said) else "a method that its config.json does not name"


def _refusal(source: str, how: str) -> ValueError:
    return ValueError(
        f"{named(source)} is quantized already ({how}), so what another scheme costs could not be told; "
        "give the float model that it was made from"
    )
