"""Facts placed early, asked late: what the window says, what is read of it by hand, and what is said and kept."""

import pytest
import torch

from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.scheme.scheme import Scheme
from quantcore.studies import retrieval as study
from quantcore.studies.context_lens import FLOAT
from quantcore.studies.retrieval import FACTS, Haystack, Retrieval, haystacks, retrieval
from ui.figures import context as figures
from ui.words import context as words

FINE, COARSE = "kv:int8/token/dynamic", "kv:int2/token/dynamic"
READING = "evaluation/all|5x250"


@pytest.fixture(scope="module")
def lab(tiny_lm: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tiny_lm, store=Store(tmp_path_factory.mktemp("retrieval")))


@pytest.fixture(scope="module")
def windows(lab: Lab) -> list[tuple[Haystack, Haystack]]:
    """Of 500 tokens, more than this model was made for: its tokenizer takes a token for almost each letter."""
    return haystacks(lab.loaded.tokenizer, torch.cat([lab.tokens(READING), lab.tokens(READING).flip(0)], 1)[:, :500])


def test_the_question_is_the_fact_up_to_its_number(lab: Lab, windows: list[tuple[Haystack, Haystack]]) -> None:
    """Each number stands once early, as far back as it is said, and once behind its question."""
    tokenizer = lab.loaded.tokenizer
    for number, (window, other) in enumerate(windows):
        text, misled = tokenizer.decode(window.tokens), tokenizer.decode(other.tokens)
        begun = [int(text.index(f"The secret number of {name} is")) for name in study.NAMES if name in text]
        assert len(begun) == FACTS
        assert len(window.tokens) <= 500
        for span, back in zip(window.answers, window.back, strict=True):
            answer = window.tokens[span.start : span.stop]
            assert torch.equal(answer, window.tokens[span.start - back : span.stop - back])
            said = tokenizer.decode(answer).strip()
            assert len(said) == 5
            assert text.count(said) == 2
            assert misled.count(said) == 1  # behind the question alone
        places = [span.start - back for span, back in zip(window.answers, window.back, strict=True)]
        assert places == sorted(places)
        assert window.back != windows[number - 1][0].back  # asked in another order
    assert windows[0][0].tokens[:8].tolist() == lab.tokens(READING)[0, :8].tolist()


def test_what_is_read_is_the_models_own_log_p(
    lab: Lab, windows: list[tuple[Haystack, Haystack]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of 50 tokens, so that an answer may lie in two of them."""
    monkeypatch.setattr(study, "PIECE", 50)
    shares: list[float] = []
    heard: list[Retrieval] = []
    caches = {text: (Scheme.parse(text).kv, {}) for text in (FINE, COARSE)}
    found = retrieval(lab.model, caches, windows, lambda share, _: shares.append(share), heard.append)
    for row, pair in enumerate(windows):
        for window, told in zip(pair, (found.said[FLOAT], found.misled), strict=True):
            log_p = lab.model(window.tokens[None]).logits[0].log_softmax(-1)
            for fact, span in enumerate(window.answers):
                by_hand = sum(float(log_p[at - 1, window.tokens[at]]) for at in span)
                assert float(told[row, fact]) == pytest.approx(by_hand, rel=1e-4)
                if window is pair[0]:
                    best = all(int(log_p[at - 1].argmax()) == int(window.tokens[at]) for at in span)
                    assert bool(found.named[FLOAT][row, fact]) == best
    away = {name: float((said - found.said[FLOAT]).abs().mean()) for name, said in found.said.items()}
    assert 0 < away[FINE] < away[COARSE]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert [len(one.misled) for one in heard] == [1, 2, 3, 4]


def test_the_lab_keeps_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "QUESTION", "\n{}:")
    found = lab.retrieval((FINE,), READING)
    kept = lab.kept_retrieval((FINE,), READING)
    assert kept is not None
    for name in (FLOAT, FINE):
        assert torch.equal(kept.said[name], found.said[name])
        assert torch.equal(kept.named[name], found.named[name])
    assert torch.equal(kept.misled, found.misled)
    assert torch.equal(kept.back, found.back)
    assert lab.kept_context_lens((FINE,), READING) is None
    with pytest.raises(ValueError, match="more than half of a window of 120; take windows of"):
        lab.retrieval((FINE,), "evaluation/story|2x120")
    with pytest.raises(ValueError, match="must speak of the cache alone"):
        lab.retrieval(("W8A8",), READING)


def by_hand(gain: float, kept: float, share: float, count: int = 6) -> Retrieval:
    misled = -10 - torch.arange(4 * count).view(count, 4) / 10
    turns = gain + torch.arange(count)[:, None] / 100
    named = torch.zeros(count, 4, dtype=torch.bool)
    named[: round(share * count)] = True
    back = torch.tensor([[400, 300, 200, 100]] * count)
    said = {FLOAT: misled + turns, FINE: misled + kept * turns}
    return Retrieval(said, {FLOAT: named, FINE: named}, misled, back)


def test_what_is_said_by_hand() -> None:
    """Of 4 nats in the mean (+ .025) a cache that keeps a half says so; a model that finds nothing is said to."""
    said = words.facts(by_hand(4.0, 0.5, 0.5))
    assert said == (
        "4 facts stand in each window, 100 to 400 tokens before they are asked for. With a float cache the model says "
        "50% of 24 numbers right; they are **4.0 nats** likelier than where the facts say others. Coded: "
        "`kv:int8/token/dynamic` says 50% and keeps **50%** of the gain."
    )
    assert "keeps **100%** of the gain (not told apart from 100%)" in words.facts(by_hand(4.0, 1.0, 0.5))
    assert "**too few to go by**" in words.facts(by_hand(4.0, 0.5, 0.0))
    assert "**This model does not find them** even in a float cache" in words.facts(by_hand(-0.5, 1.0, 0.0))
    assert "mean nothing" in words.facts(by_hand(-0.5, 1.0, 0.0))
    assert "3 windows are too few" in words.facts(by_hand(4.0, 0.5, 0.5, 3))


def test_the_picture_is_drawn_by_distance() -> None:
    found = by_hand(4.0, 0.5, 0.5)
    fig = figures.facts(found)
    assert [one.name for one in fig.data] == [FLOAT, FINE, "facts that say others"]
    assert list(fig.data[0].x) == [400, 300, 200, 100]
    assert list(fig.data[1].y) == pytest.approx(found.said[FINE].double().mean(0).tolist())
    assert list(fig.data[2].y) == pytest.approx(found.misled.double().mean(0).tolist())
