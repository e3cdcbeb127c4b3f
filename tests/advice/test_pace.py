"""The speed model: its formula by hand, laws, and that the file is what the recorded runs say."""

import pytest

from benchmarks.fit_pace import KINDS, errors, fit, rows, summary
from quantcore.advice.pace import Pace, band, bounds_ms, fitted, kind_of, product_ms
from quantcore.scheme.scheme import Scheme
from quantcore.studies.gpus import GPUS

GATE = (14336, 4096)


def test_the_formula_by_hand() -> None:
    """0.1 + 2 x 3 + ((1 x 3)^2 + (1 x (2 + 1 x 2))^2)^(1/2) = 0.1 + 6 + 5."""
    assert Pace(0.1, 2.0, 1.0, 1.0, 2.0, 1.0).ms(3.0, 3.0, 2.0, 2.0) == pytest.approx(11.1)


def test_the_bounds_are_the_datasheets() -> None:
    """bf16, one token: 2 x 14336 x 4096 bytes and a little at 4800 GB/s are 24.5 us."""
    encode, memory, arithmetic, unpack = bounds_ms("float", GATE, 1, GPUS["H200"])
    assert (encode, memory) == (0, pytest.approx(0.02447, rel=0.01))
    assert arithmetic == unpack == pytest.approx(2 * 14336 * 4096 / 989.5e12 * 1e3)


def test_stored_codes_are_unpacked_by_plain_units_whatever_the_tokens() -> None:
    """Two operations a weight: an RTX 4090 does 41.3e12 a second of int32, beside 165.2e12 of bf16 in tensor cores."""
    for tokens in (1, 64):
        _, _, arithmetic, unpack = bounds_ms("W4A16", GATE, tokens, GPUS["RTX 4090"])
        assert unpack == pytest.approx(2 * 14336 * 4096 / 41.3e12 * 1e3)
        assert arithmetic == pytest.approx(tokens * 2 * 14336 * 4096 / 165.2e12 * 1e3)
    assert bounds_ms("W8A8", GATE, 1, GPUS["RTX 4090"])[3] == pytest.approx(2 * 14336 * 4096 / 660.6e12 * 1e3)


@pytest.mark.parametrize("gpu", GPUS)
def test_no_product_is_faster_than_its_bytes(gpu: str) -> None:
    for text in KINDS:
        _, memory, _, _ = bounds_ms(text, GATE, 1, GPUS[gpu])
        assert product_ms(Scheme.parse(text), GATE, 1, GPUS[gpu]) > memory


@pytest.mark.parametrize("gpu", GPUS)
def test_one_token_waits_for_fewer_bytes_on_every_gpu(gpu: str) -> None:
    """Half the bytes of W8A8: a GPU with weak tensor cores unpacks them as fast as one with strong ones."""
    four, eight = (product_ms(Scheme.parse(text), GATE, 1, GPUS[gpu]) for text in ("W4A16", "W8A8"))
    assert four < 0.9 * eight


def test_what_was_measured_is_met() -> None:
    every = rows()
    assert len(every) > 300
    assert {one.kind for one in every} == set(KINDS)
    for kind, pace in fitted().kinds.items():
        assert summary(errors(pace, [one for one in every if one.kind == kind])).median < 0.17, kind


def test_the_file_is_what_the_runs_say() -> None:
    mine = [one for one in rows() if one.kind == "FP8_BLOCK"]
    again, kept = fit(mine), fitted().kinds["FP8_BLOCK"]
    assert [again.ms(0.01, 0.02, n * 0.03, 0.03) for n in (1, 512)] == [
        pytest.approx(kept.ms(0.01, 0.02, n * 0.03, 0.03), rel=0.01) for n in (1, 512)
    ]


def test_the_error_is_told_and_within_what_was_aimed_at() -> None:
    held = fitted().held_out
    assert set(held) == {"shape", "tokens", "gpu", "decode"}
    assert all(one.median <= 0.15 for one in held.values())
    assert held["shape"].count > 250


def test_the_band_is_twice_as_wide_where_nothing_was_measured() -> None:
    near, far = band(1.0, GPUS["H200"]), band(1.0, GPUS["L4"])
    assert far[0] < near[0] < 1 < near[1] < far[1]


@pytest.mark.parametrize(
    ("scheme", "gpu", "kind"),
    [
        ("float", "T4", "float"),
        ("w:int4/group32,gptq/actorder=weight", "H200", "W4A16"),
        ("W4A16_ASYM", "H200", "W4A16_ASYM"),
        ("w:int8/channel", "H200", "W8A16"),
        ("FP8_DYNAMIC", "H200", "FP8_DYNAMIC"),
        ("FP8_DYNAMIC", "A100 80GB", "W8A16"),
        ("FP8_BLOCK", "H200", "FP8_BLOCK"),
        ("W8A8", "A100 80GB", "W8A8"),
    ],
)
def test_the_kind_that_a_time_rests_on(scheme: str, gpu: str, kind: str) -> None:
    assert kind_of(Scheme.parse(scheme), GPUS[gpu]) == kind


def test_laws() -> None:
    """More tokens and slower memory take longer; four bits win at one token, and at many are as fast as the model of
    times can tell."""
    w4, bf16, gpu = Scheme.parse("W4A16"), Scheme(), GPUS["H100 SXM"]
    times = [product_ms(w4, GATE, tokens, gpu) for tokens in (1, 64, 512, 4096)]
    assert times == sorted(times)
    assert product_ms(w4, GATE, 1, GPUS["L4"]) > 3 * times[0]
    assert product_ms(w4, GATE, 1, gpu) < 0.6 * product_ms(bf16, GATE, 1, gpu)
    assert product_ms(w4, GATE, 4096, gpu) == pytest.approx(product_ms(bf16, GATE, 4096, gpu), rel=0.15)
