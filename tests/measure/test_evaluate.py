"""Distances by hand, and model measures against plain torch."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from quantcore import compare, quantize_model
from quantcore.measure.evaluate import perplexity, token_kl, token_nll
from quantcore.measure.scores import Comparison
from quantcore.measure.statistics import Interval
from quantcore.model.loading import LoadedModel
from quantcore.numbers.distance import sqnr_db, tensor_error


def test_tensor_error_by_hand() -> None:
    error = tensor_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    assert error.mse == 0.5
    assert error.relative_mse == pytest.approx(1 / 25)
    assert error.sqnr_db == pytest.approx(10 * math.log10(25))
    assert error.cosine == pytest.approx((9 + 12) / (5 * math.sqrt(18)))
    assert error.max_error == 1.0


def test_tensor_error_at_its_ends() -> None:
    x = torch.tensor([1.0, -2.0])
    assert tensor_error(x, x) == (math.inf, 0.0, 0.0, pytest.approx(1.0), 0.0)
    zero = torch.zeros(2)
    assert tensor_error(zero, zero) == (math.inf, 0.0, 0.0, 1.0, 0.0)
    assert tensor_error(zero, x)[:3] == (-math.inf, 2.5, math.inf)
    assert sqnr_db(100.0, 1.0) == 20.0
    with pytest.raises(ValueError, match=r"cannot compare shapes \(2,\) and \(3,\)"):
        tensor_error(zero, torch.zeros(3))


def test_kl_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert float(token_kl(p.log()[None, None], q.log()[None, None])) == pytest.approx(expected, rel=1e-5)


def test_nll_predicts_the_next_token() -> None:
    logits = torch.log(torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]]))
    nll = token_nll(logits, torch.tensor([[1, 0, 1]]))  # p(0 | first) = 0.9, p(1 | second) = 0.8
    assert torch.allclose(nll, -torch.log(torch.tensor([[0.9, 0.8]])))


def test_perplexity_equals_the_models_own_loss(tiny_lm: LoadedModel) -> None:
    torch.manual_seed(1)
    tokens = torch.randint(3, 200, (5, 30))
    losses = [float(tiny_lm.model(row[None], labels=row[None]).loss) for row in tokens]
    assert perplexity(tiny_lm.model, tokens) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_compare_equals_a_plain_loop(tiny_lm: LoadedModel) -> None:
    torch.manual_seed(1)
    tokens = torch.randint(3, 200, (5, 30))
    candidate, _ = quantize_model(tiny_lm.model, "w:int3/channel")
    report = compare(tiny_lm.model, candidate, tokens)
    p, q = (m(tokens).logits[:, :-1].double().log_softmax(-1) for m in (tiny_lm.model, candidate))
    kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1).flatten()
    assert report.kl == pytest.approx(float(kl.mean()), rel=1e-4)
    assert report.kl_p99 == pytest.approx(float(kl.sort().values[math.ceil(0.99 * len(kl)) - 1]), rel=1e-3)
    assert report.top1_agreement == float((p.argmax(-1) == q.argmax(-1)).double().mean())
    assert report.perplexity == pytest.approx(perplexity(candidate, tokens), rel=1e-6)
    assert report.tokens == 150


def test_one_token_windows_are_refused(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="windows of 1 token predict nothing"):
        compare(tiny_lm.model, tiny_lm.model, torch.zeros(3, 1, dtype=torch.int64))


def test_several_candidates_equal_each_alone(tiny_lm: LoadedModel) -> None:
    torch.manual_seed(1)
    tokens = torch.randint(3, 200, (9, 200))  # two batches
    candidates = {text: quantize_model(tiny_lm.model, text)[0] for text in ("w:int3/channel", "w:int8/channel")}
    calls: list[tuple[float, str]] = []
    found = compare(tiny_lm.model, candidates, tokens, likeliest=5, progress=lambda *call: calls.append(call))
    for name, candidate in candidates.items():
        alone = compare(tiny_lm.model, candidate, tokens)
        assert replace(found.reports[name], seconds=0) == replace(alone, seconds=0)
        p, q = (m(tokens).logits[:, :-1].softmax(-1) for m in (tiny_lm.model, candidate))
        assert torch.equal(found.scores[name].likeliest, q.topk(5).indices.int())
        assert torch.allclose(found.scores[name].probabilities, q.topk(5).values, atol=1e-6)
        assert torch.equal(found.float_scores.top1, p.argmax(-1).int())
        kl = found.scores[name].kl.double().flatten().sort().values
        places = [math.ceil(share * len(kl)) - 1 for share in (0.5, 0.95, 0.99)]
        report = found.reports[name]
        assert [report.kl_p50, report.kl_p95, report.kl_p99, report.kl_max] == [*map(float, kl[places]), float(kl[-1])]
    assert [share for share, _ in calls] == [0.25, 0.5, 0.75, 1.0]
    difference = found.log_perplexity_difference("w:int3/channel", "w:int8/channel")
    logs = [math.log(found.reports[name].perplexity) for name in candidates]
    assert difference.value == pytest.approx(logs[0] - logs[1], rel=1e-6)
    assert found.kl_difference("w:int8/channel", "w:int3/channel").hi < 0


def test_the_float_model_runs_once_and_against_itself_is_exactly_equal(tiny_lm: LoadedModel) -> None:
    tokens = torch.randint(3, 200, (6, 40))
    same, other = (quantize_model(tiny_lm.model, text)[0] for text in ("float", "w:int8/channel"))
    runs: list[int] = []
    hook = tiny_lm.model.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        found = compare(tiny_lm.model, {"a": same, "b": other, "c": same}, tokens)
    finally:
        hook.remove()
    assert len(runs) == 1
    for name in "ac":
        assert (found.reports[name].kl, found.reports[name].kl_max, found.reports[name].top1_agreement) == (0, 0, 1)
        assert found.reports[name].log_perplexity_change == Interval(0.0, 0.0, 0.0)
    assert found.reports["b"].kl > 0


def test_what_is_known_so_far_is_the_comparison_of_the_windows_read(
    tiny_lm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantcore.measure.evaluate.SO_FAR_S", 0.0)
    tokens = torch.randint(3, 200, (24, 100))  # three batches of ten windows
    candidates = {text: quantize_model(tiny_lm.model, text)[0] for text in ("w:int3/channel", "w:int4/channel")}
    looks: list[Comparison] = []
    whole = compare(tiny_lm.model, candidates, tokens, so_far=looks.append)
    assert [one.reports["w:int3/channel"].tokens for one in looks] == [1000, 2000]  # the end is no "so far"
    first = compare(tiny_lm.model, candidates, tokens[:10])
    for name in candidates:
        assert replace(looks[0].reports[name], seconds=0) == replace(first.reports[name], seconds=0)
        assert torch.equal(looks[1].scores[name].kl, whole.scores[name].kl[:20])


def test_no_candidate_is_refused(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="there is no candidate to compare"):
        compare(tiny_lm.model, {}, torch.zeros(3, 4, dtype=torch.int64))


def test_tokens_that_neither_model_ever_says_cost_nothing() -> None:
    """Padded vocabularies have logits of -inf: 0 times (-inf - -inf) is 0. KL of (1/2, 1/2) and (1/4, 3/4) is
    ln 2 / 2 + ln(2/3) / 2 = 0.1438."""
    never = -math.inf
    p, q = torch.tensor([[[0.5, 0.5, 0.0]]]).log(), torch.tensor([[[0.25, 0.75, 0.0]]]).log()
    assert p[0, 0, 2] == never
    assert token_kl(p, q).item() == pytest.approx(math.log(2) / 2 + math.log(2 / 3) / 2, abs=1e-6)
    assert token_kl(p, torch.tensor([[[1.0, 0.0, 0.0]]]).log()).item() == math.inf
