"""The choice: memory by hand, who falls out and why, who wins by each goal, the frontier."""

import pytest

from quantcore.advice.candidates import candidates
from quantcore.advice.catalog import shape_of
from quantcore.advice.choice import GOALS, Advice, advise, frontier
from quantcore.advice.load import SHARE, Load, memory_of, serve_time, ways_out, weight_bytes
from quantcore.advice.losses import Loss
from quantcore.export import kernels
from quantcore.scheme.plan import Plan
from quantcore.studies.gpus import GPUS

LLAMA = shape_of("meta-llama/Meta-Llama-3.1-8B")
H100, FREE = GPUS["H100 SXM"], "whatever fits"


def verdict(found: Advice, name: str) -> str:
    return next(one.why or "" for one in found.verdicts if one.candidate.name == name)


def test_a_load_is_a_line_of_text() -> None:
    assert Load.parse("8x8192,1024+256") == Load(8, 8192, 1024, 256)
    assert str(Load(1, 4096, 32, 16)) == "1x4096,32+16"
    with pytest.raises(ValueError, match="cannot read the load '8k'; write sequences x context"):
        Load.parse("8k")
    with pytest.raises(ValueError, match="900 and an answer of 200 tokens are more than a context of 1024"):
        Load(1, 1024, 900, 200)


def test_memory_by_hand() -> None:
    """8.03 billion numbers in 16 bits; 131,072 bytes a token of cache; what vLLM may take is nine tenths."""
    weights = weight_bytes(LLAMA, Plan.parse("float"))
    assert weights == 2 * LLAMA.parameters
    found = memory_of(LLAMA, weights, Load(4, 8192), H100, 2)
    assert found.cache == 4 * 8192 * 131_072
    assert found.budget == int(SHARE * 160e9)
    assert found.left == found.budget - found.total


def test_four_bits_are_counted_with_their_scales() -> None:
    """All but embeddings, head and norms: 6.98 billion weights at 4 + 16/128 bits."""
    coded = sum(one.numbers for one in LLAMA.matrices if one.name != "lm_head")
    expected = coded * 4.125 / 8 + 2 * (LLAMA.parameters - coded)
    assert weight_bytes(LLAMA, Plan.parse("W4A16")) == pytest.approx(expected, rel=1e-6)


def test_more_sequences_bring_more_tokens_and_slower_ones() -> None:
    one, many = (serve_time(LLAMA, Plan.parse("float"), Load(n), H100) for n in (1, 64))
    assert many.step_ms > one.step_ms
    assert many.tokens_s > 5 * one.tokens_s
    assert one.first_s == pytest.approx(many.first_s)


def test_a_mixture_takes_the_time_of_what_is_chosen_and_the_memory_of_all() -> None:
    """8 of 128 experts a block: one sequence reads a small part of the weights, a large batch touches them all."""
    mixture, plan = shape_of("Qwen/Qwen3-30B-A3B"), Plan.parse("float")
    weights = weight_bytes(mixture, plan)
    assert weights == 2 * mixture.parameters
    every_ms = weights / (1e6 * H100.bandwidth_gb_s)
    alone, many = (serve_time(mixture, plan, Load(n, 2048), H100).step_ms for n in (1, 256))
    assert alone < every_ms / 2
    assert many > every_ms


def test_a_mixture_wants_kernels_for_its_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "EXPERT_KERNELS", ())
    found = advise(shape_of("Qwen/Qwen3-30B-A3B"), H100, Load(), tolerance=FREE)
    assert verdict(found, "FP8_DYNAMIC").startswith("vLLM lists no kernel for experts under")
    assert "vLLM" not in verdict(advise(LLAMA, H100, Load(), tolerance=FREE), "FP8_DYNAMIC")


@pytest.mark.parametrize("goal", GOALS)
def test_every_candidate_has_a_line(goal: str) -> None:
    found = advise(LLAMA, H100, Load(), goal=goal, tolerance=FREE)
    assert found.chosen is not None
    for one in found.verdicts:
        assert (one.why is None) == (one == found.chosen)


def test_the_goals_choose_differently() -> None:
    found = {goal: advise(LLAMA, H100, Load(), goal=goal, tolerance=FREE).chosen for goal in GOALS}
    names = {goal: one.candidate.name for goal, one in found.items() if one}
    assert names["quality"] == "bf16"
    assert names["memory"].startswith("W4A16")
    assert names["latency"] == "W4A16 GPTQ"  # as fast as rounding, and loses less on kin


def test_why_not() -> None:
    t4 = advise(LLAMA, GPUS["T4"], Load(1, 2048), tolerance=FREE)
    assert "does not fit by" in verdict(t4, "bf16")
    b200 = advise(LLAMA, GPUS["B200"], Load(), tolerance=FREE)
    assert verdict(b200, "W8A8").startswith("vLLM has no kernel for it here")
    nothing = advise(shape_of("meta-llama/Meta-Llama-3.1-405B"), GPUS["T4"], Load(), tolerance=FREE)
    assert (nothing.chosen, nothing.runner_up) == (None, None)


def test_where_a_gpu_makes_less_of_a_scheme_it_says_so() -> None:
    """fp8 is only stored before 8.9, Turing has no bfloat16, and nobody measured four bits on AMD."""
    a100, t4, h100 = (
        advise(LLAMA, GPUS[name], Load(1, 2048), tolerance=FREE) for name in ("A100 80GB", "T4", "H100 SXM")
    )
    assert "inputs stay 16-bit on this GPU" in verdict(a100, "FP8_DYNAMIC")
    assert "stay 16-bit" not in verdict(a100, "W8A8")
    notes = [{one.candidate.name: one.note for one in found.verdicts} for found in (t4, h100)]
    assert "served as fp16: this GPU has no bfloat16" in (notes[0]["bf16"] or "")
    assert not any(notes[1].values())
    amd = advise(LLAMA, GPUS["MI300X"], Load(1, 2048), tolerance=FREE)
    assert "whose speed nobody measured" in verdict(amd, "W4A16 GPTQ")
    assert verdict(amd, "W8A16").startswith("vLLM has no kernel for it here")
    mixture = advise(shape_of("Qwen/Qwen3-30B-A3B"), GPUS["A100 80GB"], Load(), tolerance=FREE)
    assert "inputs stay 16-bit" in verdict(mixture, "FP8_DYNAMIC")


def test_the_way_out_fits() -> None:
    """405B in four bits is 206 GB; so many T4, so many sequences or tokens are enough, and one less is not."""
    big = shape_of("meta-llama/Meta-Llama-3.1-405B")
    load, gpu = Load(8, 8192), GPUS["H100 SXM"]
    least = advise(big, gpu, load, 4, tolerance=FREE)
    memory = next(one.memory for one in least.verdicts if one.candidate.name == "bf16")
    ways = ways_out(memory, load, 4)
    assert (ways.sequences, ways.context) == (None, None)  # its weights alone are too many
    assert ways.gpus is not None
    fits = [memory_of(big, memory.weights, load, gpu, n).left >= 0 for n in (ways.gpus // 2, ways.gpus)]
    assert fits == [False, True]
    load = Load(64, 8192)
    memory = memory_of(LLAMA, weight_bytes(LLAMA, Plan.parse("W4A16")), load, GPUS["RTX 4090"])
    ways = ways_out(memory, load, 1)
    assert ways.sequences is not None
    assert ways.context is not None
    for inside, outside in (
        (Load(ways.sequences, 8192), Load(ways.sequences + 1, 8192)),
        (Load(64, ways.context, 128, 64), Load(64, ways.context + 128, 128, 64)),
    ):
        kept = [memory_of(LLAMA, memory.weights, one, GPUS["RTX 4090"]).left >= 0 for one in (inside, outside)]
        assert kept == [True, False]


def test_a_tolerance_that_nothing_was_held_to() -> None:
    assert not advise(LLAMA, H100, Load(1)).held
    assert not advise(LLAMA, GPUS["T4"], Load(64, 131_072)).held  # nothing fits
    every = {one.text: Loss(0.001, 0.0, 0.002, 0.001, 1.0, "this model") for one in candidates(LLAMA)}
    assert advise(LLAMA, H100, Load(1), measured=every).held


def test_large_ratios_are_written_out() -> None:
    """Four bits beside eight: 0.102 and 0.00067 nats on the reference model."""
    found = advise(shape_of("HuggingFaceTB/SmolLM2-135M"), GPUS["H200"], Load(), tolerance=FREE)
    assert found.chosen is not None
    assert found.chosen.candidate.name == "W8A16"
    assert "loses 150 times as much KL" in verdict(found, "W4A16 GPTQ")


def test_a_measured_loss_is_held_to_what_is_tolerated() -> None:
    w4 = next(one.text for one in candidates(LLAMA) if one.name == "W4A16 GPTQ")
    losses = {w4: Loss(0.02, 0.01, 0.03, 0.025, 0.97, "toy")}
    tight, loose = (advise(LLAMA, H100, Load(1), tolerance=f"perplexity + {n}%", measured=losses) for n in (1, 3))
    assert verdict(tight, "W4A16 GPTQ") == "perplexity rises by up to 2.5%, more than 1%"
    assert loose.chosen is not None
    assert loose.chosen.candidate.text == w4
    top = advise(LLAMA, H100, Load(1), tolerance="same next token in 99 of 100", measured=losses)
    assert "the same in 97.0%, fewer than 99%" in verdict(top, "W4A16 GPTQ")


def test_the_frontier_holds_whom_nobody_beats() -> None:
    found = [one for one in advise(LLAMA, H100, Load(), tolerance=FREE).verdicts if not one.closed]
    front = frontier(found)
    names = {one.candidate.name for one in front}
    assert {"bf16", "W4A16 GPTQ"} <= names
    assert "W4A16" not in names  # GPTQ has its bytes and its speed, and loses less


def test_the_group_fits_the_widths() -> None:
    small = candidates(shape_of("HuggingFaceTB/SmolLM2-135M"))
    assert "w:int4/group128" in [one.text for one in candidates(LLAMA)]
    assert "w:int4/group64" in [one.text for one in small]
    assert "FP8_BLOCK" not in [one.name for one in small]


def test_what_is_no_wish() -> None:
    with pytest.raises(ValueError, match="goal 'speed'.*the goals are quality, latency"):
        advise(LLAMA, H100, Load(), goal="speed")


def test_a_loss_of_one_model_is_not_held_against_one_of_another() -> None:
    """One candidate alone was measured, on a model that loses little: kin's figures still order all."""
    unknown = advise(LLAMA, H100, Load(), goal="quality", tolerance=FREE)
    gptq = next(one.text for one in candidates(LLAMA) if one.name == "W4A16 GPTQ")
    little = Loss(0.0001, 0.0, 0.0002, 0.0, 1.0, "this model")
    found = advise(LLAMA, H100, Load(), goal="quality", tolerance=FREE, measured={gptq: little})
    assert found.chosen is not None
    assert unknown.runner_up is not None
    assert found.runner_up is not None
    assert found.runner_up.candidate == unknown.runner_up.candidate
    assert unknown.runner_up.candidate.name != "W4A16 GPTQ"
    memory = [advise(LLAMA, H100, Load(), goal="memory", tolerance=FREE, measured=own) for own in ({}, {gptq: little})]
    assert [verdict(one, "W4A16") for one in memory] == [verdict(memory[0], "W4A16")] * 2
    assert "(recorded on the reference model)" in verdict(memory[1], "W4A16")
