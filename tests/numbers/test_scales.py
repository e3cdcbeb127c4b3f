"""Coded scales: their grids by hand, and what a tensor under them says."""

import dataclasses

import pytest
import torch

from quantcore import Scheme, dequantize, fake_quantize, quantize
from quantcore.numbers.affine import choose_qparams
from quantcore.numbers.bits import layer_size, weight_size
from quantcore.numbers.formats import format_named
from quantcore.numbers.observers import SHRINK
from quantcore.numbers.qtensor import QTensor, qparams_for
from quantcore.numbers.scales import E8M0, from_codes, local_codes
from quantcore.scheme.scheme import PRESETS
from tests.specs import activations_spec, weights_spec

CODED = ("fp4_e2m1/group16/e4m3", "fp4_e2m1/group32/e8m0", "fp6_e2m3/group32/e8m0", "fp8_e4m3/group32/e8m0")


@pytest.mark.parametrize(
    ("fmt", "ends"),
    [
        # the format's largest value m 2^e gets scale 1 up to where m rounds to 2: 7 is 1.75 * 4, halfway from 6 to 8
        ("fp4_e2m1", {3.4: 0.5, 3.5: 1, 4.0: 1, 6.0: 1, 6.99: 1, 7.0: 2, 8.0: 2, 0.01: 2.0**-9}),
        ("fp6_e2m3", {3.87: 0.5, 7.5: 1, 7.74: 1, 7.75: 2}),
        ("fp6_e3m2", {28.0: 1, 29.9: 1, 30.0: 2}),
        ("fp8_e4m3", {256.0: 1, 447.0: 1, 448.0: 2}),  # 448 is 1.75 * 256 already
        ("int8", {64.0: 1, 127.0: 1, 127.5: 2}),
    ],
)
def test_e8m0_by_hand(fmt: str, ends: dict[float, float]) -> None:
    found = E8M0.code(torch.tensor(list(ends)), format_named(fmt), None)
    assert found.tolist() == list(ends.values())


def test_e8m0_of_nothing_and_of_next_to_nothing() -> None:
    found = E8M0.code(torch.tensor([0.0, 1e-42, 3e38]), format_named("fp4_e2m1"), None)
    assert found.tolist() == [1, 2.0**-126, 2.0**126]  # 3e38 is 1.76 * 2^127, so it goes up


def test_e4m3_by_hand() -> None:
    # the loudest of the tensor is 6, so the global scale is 448 * 6 / 6. A tile that reaches 1: 448 / 6 = 74.67,
    # between 72 and 80, and its scale 72 / 448; one of zeros: 0.125 / 448
    x = torch.zeros(2, 32)
    x[0, 3], x[0, 20], x[1, 31] = 6.0, -3.0, 1.0
    q = quantize(x, weights_spec("fp4_e2m1/group16/e4m3"))
    assert q.global_scale.tolist() == [448]
    assert (q.scale * 448).tolist() == [[448, 224], [0.125, 72]]
    assert local_codes(q.scale, q.global_scale).float().tolist() == [[448, 224], [0.125, 72]]
    assert dequantize(q)[0, [3, 20]].tolist() == [6, -3]
    assert dequantize(q)[1, 31].item() == pytest.approx(6 * 72 / 448)  # 1 / scale = 6.2: clipped to 6


def test_a_power_of_two_wastes_up_to_half_of_the_grid() -> None:
    # 32 numbers up to 3: e8m0 has scale 0.5 and uses all of it; up to 4.01: scale 1, and 6 is never reached
    x = torch.linspace(-1, 1, 32)[None]
    used = {reach: quantize(reach * x, weights_spec("fp4_e2m1/group32/e8m0")) for reach in (3.0, 4.01)}
    assert used[3.0].scale.item() == 0.5
    assert used[4.01].scale.item() == 1
    largest = {reach: format_named("fp4_e2m1").decode(q.q).max().item() for reach, q in used.items()}
    assert largest == {3.0: 6, 4.01: 4}


@pytest.mark.parametrize("text", CODED)
def test_quantizing_twice_changes_nothing_with_the_same_scales(text: str) -> None:
    x = torch.randn(8, 64)
    q = quantize(x, weights_spec(text))
    once = dequantize(q)
    assert torch.equal(dequantize(quantize(once, q.spec, q.qparams)), once)
    assert torch.equal(fake_quantize(x, q.spec), once)


@pytest.mark.parametrize("text", CODED)
def test_stored_scales_give_the_scales_back(text: str) -> None:
    x = torch.randn(64, 256) * torch.logspace(-3, 3, 64)[:, None]
    q = quantize(x, weights_spec(text))
    stored = local_codes(q.scale, q.global_scale)
    assert stored.element_size() == 1
    back = 2.0 ** (stored.float() - 127) if q.global_scale is None else stored.float() / q.global_scale
    assert torch.equal(back, q.scale)


def test_the_finer_the_scale_the_less_is_lost() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 256)
    x[5, 9] = 20.0
    lost = [
        (fake_quantize(x, weights_spec(f"fp4_e2m1/{grain}")) - x).square().mean().item()
        for grain in ("group32/e8m0", "group32", "group16/e4m3")
    ]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 1.15 * lost[2]


@pytest.mark.parametrize("observer", ["mse", "p99"])
@pytest.mark.parametrize("text", CODED)
def test_observers_stay_on_the_grid_of_scales(text: str, observer: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(16, 128)
    x[3, 4] = 9.0
    spec = weights_spec(f"{text}/{observer}")
    found, plain = qparams_for(x, spec), qparams_for(x, weights_spec(text))
    assert found.global_scale is None or torch.equal(found.global_scale, plain.global_scale)
    stored = local_codes(found.scale, found.global_scale)
    back = 2.0 ** (stored.float() - 127) if found.global_scale is None else stored.float() / found.global_scale
    assert torch.equal(back, found.scale)
    if observer == "mse":
        errors = [(fake_quantize(x, one) - x).square().sum() for one in (spec, weights_spec(text))]
        assert errors[0] <= errors[1]


@pytest.mark.parametrize("text", [*CODED, "int8/group32/e8m0", "fp6_e3m2/group32/e8m0"])
def test_a_scales_reach_gives_it_back(text: str) -> None:
    torch.manual_seed(3)
    spec, x = weights_spec(text), torch.randn(64, 64)
    own = qparams_for(x, spec)
    for scale in spec.scales.neighbours(own.scale, own.global_scale):
        reach = spec.scales.reach_of(scale, spec.fmt)
        assert torch.equal(spec.scales.code(reach, spec.fmt, own.global_scale), scale)


def test_mse_keeps_the_global_scale_of_the_whole() -> None:
    """Each tile's is the best of its shrunk ranges under that one, also where the loudest tile is shrunk itself."""
    torch.manual_seed(4)
    x = torch.randn(64, 64)
    x[::2, ::16] *= 9
    plain, found = (quantize(x, weights_spec(f"fp4_e2m1/group16/e4m3{observer}")) for observer in ("", "/mse"))
    lost = [(dequantize(q) - x).square().view(64, 4, 16).sum(-1) for q in (plain, found)]
    assert bool((lost[1] <= lost[0] * (1 + 1e-6)).all())
    least = torch.full_like(lost[0], torch.inf)
    spec = plain.spec
    tiles = x.view(64, 4, 16)
    for shrink in SHRINK:
        reach = tiles.abs().amax(-1) * shrink
        scale = spec.scales.code(reach, spec.fmt, plain.global_scale)
        q = quantize(x, spec, plain.qparams._replace(scale=scale))
        least = torch.minimum(least, (dequantize(q) - x).square().view(64, 4, 16).sum(-1))
    assert torch.allclose(lost[1], least)


@pytest.mark.parametrize("text", CODED)
def test_search_is_never_worse_tile_by_tile(text: str) -> None:
    torch.manual_seed(2)
    x = torch.randn(32, 128) * torch.logspace(-4, 1, 32)[:, None]
    x[3, 4], x[5] = 90.0, 0.0
    plain, found = (quantize(x, weights_spec(f"{text}{observer}")) for observer in ("", "/search"))
    width = x.shape[1] // plain.scale.shape[1]
    lost = [(dequantize(q) - x).square().view(len(x), -1, width).double().sum(-1) for q in (plain, found)]
    assert bool((lost[1] <= lost[0] * (1 + 1e-6)).all())
    # to double the scale of floats changes nothing but both ends of their range, so powers of two have little to win
    assert float((lost[1] < 0.99 * lost[0]).double().mean()) > 0.1 or "e8m0" in text
    assert found.global_scale is None or torch.equal(found.global_scale, plain.global_scale)
    stored = local_codes(found.scale, found.global_scale)
    assert torch.equal(from_codes(stored.view(torch.uint8), found.global_scale), found.scale)


def test_search_by_hand() -> None:
    # min-max's scale is 1 (448 / 448): 5 lies between 4 and 6, off by 1 each; max / 4 = 1.5 has 1.5 * (4, 3 or 1) and
    # so 6, 4.5, 1.5: of 6 and fifteen times 4.5 it loses nothing
    x = torch.full((1, 16), 4.5)
    x[0, 0] = 6.0
    assert quantize(x, weights_spec("fp4_e2m1/group16/e4m3")).scale.item() == 1
    # 448 is e4m3's largest code, so that the loudest tile cannot go up: the tensor has a louder one
    x = torch.cat([x, torch.full((1, 16), 12.0)], 1)
    plain, found = (quantize(x, weights_spec(f"fp4_e2m1/group16/e4m3{text}")) for text in ("", "/search"))
    assert plain.scale[0, 0].item() == 1
    assert found.scale[0, 0].item() == pytest.approx(1.5, abs=0.1)
    assert (dequantize(found) - x).abs().max() < (dequantize(plain) - x).abs().max()


def test_a_loud_column_decides_the_weighted_search() -> None:
    # as above, but for a 5: where its column alone counts, 288 / 224 is best (global: 448 * 6 / 12), and 4 of it 5.14
    x = torch.cat([torch.full((1, 16), 4.5), torch.full((1, 16), 12.0)], 1)
    x[0, 0], x[0, 1] = 6.0, 5.0
    spec = weights_spec("fp4_e2m1/group16/e4m3/search=h")
    equal, loud = torch.ones(32), torch.ones(32)
    loud[1] = 1e4
    plain = qparams_for(x, weights_spec("fp4_e2m1/group16/e4m3/search"))
    assert torch.equal(qparams_for(x, spec, power=equal).scale, plain.scale)
    off = [float((fake_quantize(x, spec, one) - x)[0, 1].abs()) for one in (plain, qparams_for(x, spec, power=loud))]
    assert off[1] < 0.15 < 0.2 < off[0]
    with pytest.raises(ValueError, match="search=h weighs errors by how loud each column's inputs are.*write search$"):
        quantize(x, spec)


@pytest.mark.parametrize("text", CODED)
def test_the_weighted_search_is_never_worse_by_its_own_measure(text: str) -> None:
    torch.manual_seed(3)
    x, power = torch.randn(32, 128), torch.logspace(-2, 2, 128)[torch.randperm(128)]
    ways = ("", "/search", "/search=h")
    lost = []
    for spec in (weights_spec(f"{text}{way}") for way in ways):
        found = qparams_for(x, spec, power=power)
        error = fake_quantize(x, spec, found) - x
        lost.append((error.square() * power).view(*found.scale.shape, -1).sum(-1))
    assert bool((lost[2] <= lost[0] * (1 + 1e-6)).all())
    assert bool((lost[2] <= lost[1] * (1 + 1e-6)).all())
    assert float(lost[2].sum()) < float(lost[1].sum()) or "fp8" in text  # as above: powers of two have little to win


@pytest.mark.parametrize(
    ("preset", "bits"), [("MXFP4A16", 4.25), ("MXFP6A16", 6.25), ("MXFP8A16", 8.25), ("W4A16", 4.125)]
)
def test_bits_of_powers_of_two(preset: str, bits: float) -> None:
    assert weight_size(PRESETS[preset].weights, (256, 512)).bits_per_weight == bits


def test_bits_of_nvfp4() -> None:
    size = layer_size(PRESETS["NVFP4"].coded((256, 512)))
    assert size.codes == 4 * 256 * 512
    assert size.scales == 8 * 256 * 32 + 32  # one float32 a tensor
    assert size.inputs == 32  # the inputs' own
    assert size.bits_per_weight == pytest.approx(4.5, abs=1e-3)


def test_local_takes_the_frozen_global_scale_and_its_own_tiles() -> None:
    spec = activations_spec("fp4_e2m1/group16/e4m3/local")
    assert spec.local
    assert spec.static
    frozen = choose_qparams(torch.tensor([[-6.0]]), torch.tensor([[3.0]]), spec)
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16] = 12.0, 0.3  # twice what was seen: the code stays 448, and 12 is clipped to 6
    # 0.3 in its own tile: 448 * 0.3 / 6 = 22.4, and e4m3 has 22 and 24, so 0.3 is clipped to 6 * 22 / 448
    assert fake_quantize(x, spec, frozen)[0, [0, 16]].tolist() == pytest.approx([6, 6 * 22 / 448])
    # its own global scale is 224: 224 * 0.3 / 6 = 11.2, and e4m3 has 11
    assert fake_quantize(x, spec)[0, [0, 16]].tolist() == pytest.approx([12, 6 * 11 / 224])


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith(("NV", "MX"))])
def test_presets_come_back_from_their_text(name: str) -> None:
    assert Scheme.parse(str(PRESETS[name])) == PRESETS[name]
    assert Scheme.parse(str(PRESETS[name])).label == name
    assert PRESETS[name].needs_ranges == (name == "NVFP4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("w:int4/group16/e4m3/asym", "e4m3 codes scales of symmetric codes alone; leave out asym, or e4m3"),
        ("w:fp4_e2m1/group32/e8m0/jitter2", "scales in e8m0 have no 16-bit grain to move in"),
        ("w:fp4_e2m1/group32/e8m0/e4m3", "cannot read 'e4m3'; after the granularity come"),
        ("w:fp4_e2m1/group32/local", "cannot read 'local'"),
        ("a:fp4_e2m1/group32/e8m0/local", "local is the word of dynamic scales under a global one.*write dynamic"),
        ("a:fp4_e2m1/group16/e4m3/dynamic", "local is the word of dynamic scales under a global one.*write local"),
        (
            "a:fp4_e2m1/tensor/e4m3/static",
            "activations with scales in e4m3 have their global scale frozen.*write /local",
        ),
        ("a:fp4_e2m1/group16/e4m3/local/mse", "mse weighs one scale for all that was seen, and local ones are many"),
        ("w:fp4_e2m1/group32/search", "search goes from code to code of scales, and float has none; use mse, or e8m0"),
        ("a:fp4_e2m1/group32/e8m0/dynamic/search", "search takes too long for tensors at run time"),
        ("a:fp8_e4m3/tensor/e8m0/static/search", "search is for weights, which are coded once"),
        ("a:fp4_e2m1/group32/e8m0/static", "static per-group32 activations cannot be"),
    ],
)
def test_what_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scheme.parse(text)


def test_a_qtensor_wants_its_global_scale() -> None:
    q = quantize(torch.randn(4, 32), weights_spec("fp4_e2m1/group16/e4m3"))
    with pytest.raises(ValueError, match="a tensor has a global scale exactly where its scales, e4m3, are under one"):
        QTensor(q.q, q.scale, None, q.spec)
    with pytest.raises(ValueError, match="where its scales, float, are under one"):
        dataclasses.replace(q, spec=weights_spec("fp4_e2m1/group16"))
