"""Where vLLM has a kernel for a scheme, by compute capability."""

from types import SimpleNamespace

import pytest

from benchmarks.zoo_models import config_of
from quantcore.export.kernels import (
    AMD,
    CPU,
    EXPERT_KERNELS,
    KERNELS,
    Place,
    kernel_for,
    stays_16_bit,
    why_not_on,
)
from quantcore.export.vllm import Serving, serving
from quantcore.model.experts import taken_apart
from quantcore.model.loading import LoadedModel
from quantcore.model.mixture import chosen_of, experts_of, mixture_of
from quantcore.scheme.scheme import Scheme
from quantcore.studies.footprint import ModelShape
from tests.model.test_experts import made

TURING, AMPERE, ADA, HOPPER, BLACKWELL, GEFORCE_50 = (7, 5), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)
EVERY: tuple[Place, ...] = (TURING, AMPERE, ADA, HOPPER, BLACKWELL, GEFORCE_50, AMD, CPU)


@pytest.mark.parametrize(
    ("scheme", "places"),
    [
        ("float", EVERY),
        ("W4A16", EVERY),
        ("W4A16_ASYM", EVERY[:7]),
        ("w:int4/group32,gptq/actorder=weight", EVERY),
        ("W8A16", EVERY[:6]),
        ("W8A8", (TURING, AMPERE, ADA, HOPPER, CPU)),
        ("FP8_DYNAMIC", (*EVERY[:6], AMD)),
        ("FP8_BLOCK", (*EVERY[:6], AMD)),
        ("W4AFP8", (HOPPER,)),
        ("W4A8", EVERY[:6]),
        ("W3A16", EVERY[:6]),
        ("NVFP4A16", EVERY[:6]),
        ("NVFP4", EVERY[:6]),
        ("MXFP4", EVERY[:6]),
        ("MXFP8", EVERY[:6]),
        ("MXFP6A16", ()),
        ("MXFP4XFP8", ()),
        ("w:fp4_e2m1/group32", ()),
        ("w:int4/group96", ()),
    ],
)
def test_where_vllm_has_a_kernel(scheme: str, places: tuple[Place, ...]) -> None:
    assert tuple(place for place in EVERY if why_not_on(Scheme.parse(scheme), place) is None) == places


def test_why_not() -> None:
    assert why_not_on(Scheme.parse("w:fp4_e2m1/group32"), HOPPER) == "vLLM lists no kernel for w:fp4_e2m1/group32"
    assert "takes groups of 32, 64, 128" in (why_not_on(Scheme.parse("w:int4/group96"), HOPPER) or "")
    assert why_not_on(Scheme.parse("W4A16_ASYM"), CPU) == ("vLLM's kernel for W4A16_ASYM takes no zero points on a CPU")
    assert "not Blackwell" in (why_not_on(Scheme.parse("W8A8"), BLACKWELL) or "")


def test_fp8_is_only_stored_before_ada() -> None:
    fp8 = Scheme.parse("FP8_DYNAMIC")
    assert [stays_16_bit(fp8, place) for place in (TURING, AMPERE, ADA, HOPPER, AMD)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not stays_16_bit(Scheme.parse("W4A16"), AMPERE)


@pytest.mark.parametrize("name", ["NVFP4", "MXFP4", "MXFP8"])
def test_hopper_has_no_tensor_core_for_coded_scales(name: str) -> None:
    scheme = Scheme.parse(name)
    places = (TURING, AMPERE, ADA, HOPPER, BLACKWELL, GEFORCE_50)
    assert [stays_16_bit(scheme, place) for place in places] == [True] * 4 + [False] * 2
    assert "Hopper among them, no tensor core takes these codes" in kernel_for(scheme).gpus


LLM_COMPRESSOR = {  # its guide "Choosing the right compression scheme", 0.11: from where codes are multiplied
    "W4A16": (7, 5), "W8A16": (7, 5), "W8A8": (7, 5), "FP8_DYNAMIC": (8, 9), "NVFP4": (10, 0), "MXFP4": (10, 0),
    "MXFP8": (10, 0), "W4AFP8": (9, 0),
}  # fmt: skip


@pytest.mark.parametrize(("name", "least"), LLM_COMPRESSOR.items())
def test_each_row_of_llm_compressors_table(name: str, least: tuple[int, int]) -> None:
    kernel = kernel_for(Scheme.parse(name))
    assert max(kernel.least, kernel.codes_from) == least


@pytest.mark.parametrize(
    ("scheme", "places"),
    [
        ("W4A16", EVERY[:6]),
        ("W8A16", EVERY[:6]),
        ("W3A16", ()),  # Linears of 3 bits have Humming
        ("W8A8", (*EVERY[:6], CPU)),
        ("w:int8/channel,a:int8/tensor/static", ()),
        ("FP8_DYNAMIC", (*EVERY[:6], AMD)),
        ("FP8", (*EVERY[:6], AMD)),
        ("FP8_BLOCK", (*EVERY[:6], AMD)),
        ("w:fp8_e4m3/tensor,a:fp8_e4m3/token/dynamic", ()),
        ("w:fp8_e4m3/channel", ()),
        ("W4AFP8", (HOPPER,)),
        ("W4A8", ()),  # Arm's CPUs
        ("NVFP4", EVERY[:6]),
        ("MXFP4", EVERY[:6]),
    ],
)
def test_where_vllm_has_a_fused_kernel_for_experts(scheme: str, places: tuple[Place, ...]) -> None:
    found = tuple(place for place in EVERY if why_not_on(Scheme.parse(scheme), place, expert=True) is None)
    assert found == places


def test_experts_have_kernels_of_their_own() -> None:
    """One place is a mixture's: what Linears have and experts have not is told, with a way out."""
    place = "model.layers.0.mlp.experts"

    def said(text: str, shape: tuple[int, int] = (128, 256)) -> Serving:
        name = f"{place}.3.w1"
        return serving("out", {name: Scheme.parse(text)}, 64, [place], {name: shape})

    assert said("W4A16").gpus == (
        "experts of 4- and 8-bit integer weights alone: NVIDIA 7.5 and above (fused Marlin) "
        "[vLLM pull request 47154, June 2026]",
    )
    assert said("W4A16").problems == ()
    assert "lists no kernel for experts under w:int3/group128; it has some for int4" in said("W3A16").problems[0]
    assert "FP8_DYNAMIC" in said("w:fp8_e4m3/channel").problems[0]
    assert said("W4A16", (768, 2048)).problems == ()
    assert said("W4A16", (2048, 704)).problems == ()  # down: 704 is 11 times 64
    assert "w1 is 32 x 256 (output x input), so a slower one" in said("W4A16", (32, 256)).problems[0]
    assert "and an expert's width of 64" in said("w:int4/group32", (192, 192)).problems[0]
    assert "zero points beside 4-bit codes alone" in said("w:int8/group128/asym").problems[0]
    assert "to the larger of their two scales" in said("FP8").problems[0]
    linear = {"model.layers.0.mlp.up_proj": Scheme.parse("W3A16")}
    assert serving("out", linear, 64, [place]).gpus[0].startswith("2-, 3-, 5-")


def test_a_mixture_says_what_a_token_passes() -> None:
    """Two of four experts in two blocks of three matrices 48 x 32; the table of embeddings is 128 x 32."""
    model = taken_apart(made("Mixtral"))
    found, numbers = mixture_of(model), sum(one.numel() for one in model.parameters())
    assert found is not None
    assert (found.chosen, found.experts, found.parameters) == (2, 4, numbers)
    assert found.active == numbers - 2 * 2 * 3 * 48 * 32 - 128 * 32
    assert found.active == ModelShape.of(model, "").active
    said = serving("out", {}, 64, mixture=found).mixture
    assert said is not None
    assert said.startswith("a token passes 2 of 4 experts a block, 0.0")


def test_a_model_without_experts_is_no_mixture(tiny_lm: LoadedModel) -> None:
    assert mixture_of(tiny_lm.model) is None


@pytest.mark.parametrize(("kind", "chosen"), [("aria_text", 2), ("dbrx", 2), ("hunyuan_v1_moe", 1)])
def test_wherever_a_configuration_says_how_many_are_chosen(kind: str, chosen: int) -> None:
    assert (chosen_of(config_of(kind)), experts_of(config_of(kind))) == (chosen, 4)


def test_a_number_a_block_is_taken_for_the_first() -> None:
    config = SimpleNamespace(model_type="some", moe_topk=[8, 8], num_experts=[64, 64])
    assert (chosen_of(config), experts_of(config)) == (8, 64)
    with pytest.raises(ValueError, match="a some does not say how many experts a block has; name another model"):
        experts_of(SimpleNamespace(model_type="some"))


def test_words_and_numbers_say_the_same() -> None:
    """The sentence of a kernel names the capability that it begins with."""
    for kernel in (*KERNELS, *EXPERT_KERNELS):
        assert "202" in kernel.source or "0.32" in kernel.source
        if "NVIDIA" in kernel.gpus:
            first = kernel.codes_from if kernel.codes_from > (0, 0) else kernel.least
            assert f"NVIDIA {first[0]}.{first[1]}" in kernel.gpus
        else:
            assert not any(kernel.runs_on(place) for place in EVERY)
    assert kernel_for(Scheme.parse("W8A8")) is not None


@pytest.mark.parametrize(
    ("kv", "flag", "said"),
    [
        ("kv:fp8_e4m3/tensor", "fp8", "a scale a layer: NVIDIA from CUDA 11.8 on, AMD"),
        ("kv:fp8_e4m3/head", "fp8", "with the Flash Attention backend alone"),
        ("kv:int8/token", "int8_per_token_head", "with the Triton attention backend alone"),
        ("kv:fp8_e4m3/token", "fp8_per_token_head", "with the Triton attention backend alone"),
    ],
)
def test_vllms_flag_for_a_cache(kv: str, flag: str, said: str) -> None:
    found = serving("out", {"m.layers.0.o_proj": Scheme.parse("W8A8")}, 64, kv=Scheme.parse(kv).kv)
    assert found.command == f"vllm serve out --max-model-len 64 --kv-cache-dtype {flag}"
    assert said in found.gpus[1]
    assert "202" in found.gpus[1]  # its date
    assert found.problems == ()


@pytest.mark.parametrize(
    ("kv", "problem"),
    [
        ("kv:int8/head", "would put fp8 codes under the scales of kv:int8/head/static"),
        ("kv:int4/token", "lists no cache such as kv:int4/token/dynamic"),
        ("kv:int8/token/asym", "lists no cache such as"),
        ("k:int8/token", "lists no cache such as"),
    ],
)
def test_caches_that_vllm_has_not(kv: str, problem: str) -> None:
    found = serving("out", {"m.layers.0.o_proj": Scheme.parse("W8A8")}, 64, kv=Scheme.parse(kv).kv)
    assert found.command == "vllm serve out --max-model-len 64"
    assert len(found.problems) == 1
    assert problem in found.problems[0]
