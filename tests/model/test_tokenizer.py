"""Tokenizers and chat templates of strangers: what is sound answers as transformers' own, what is not is refused, and
nothing that they do takes this process down."""

import errno
import gc
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from quantcore.model import tokenizer as house
from quantcore.model.loading import LoadedModel, load_model
from quantcore.model.locate import Place
from quantcore.model.streamed import StreamedModel
from quantcore.model.tokenizer import BoundedTokenizer, require_ids
from quantcore.text.files import LoadedText
from quantcore.text.windows import prompt_tokens, token_windows
from tests import forked
from tests.tiny import SENTENCES, VOCAB

Change = Callable[[dict[str, Any]], Any]
TALK = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"


def shorten(monkeypatch: pytest.MonkeyPatch, tried: str) -> None:
    """What never ends takes as long as it may: a second in place of five. What takes memory may need its time."""
    if tried in ("never ends", "searches without end"):
        monkeypatch.setattr(house, "ANSWER_S", 1.0)


@pytest.fixture
def altered(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """altered(tokenizer=change, config=change, template=text) -> a copy of the tiny model's folder."""

    def make(tokenizer: Change | None = None, config: Change | None = None, template: str | None = None) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model_dir, folder)
        for name, change in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            if change is not None:
                content = json.loads((folder / name).read_text())
                change(content)
                (folder / name).write_text(json.dumps(content))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


def opened(folder: Path) -> BoundedTokenizer:
    """The tokenizer alone, asked as a model is loaded."""
    found = BoundedTokenizer(str(folder), Place(folder))
    require_ids(found, VOCAB)
    return found


# --- what is sound


@pytest.fixture(scope="module")
def theirs(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.mark.parametrize("text", [*SENTENCES, "", " ", "a", "\x00\n\té漢\U0001f600", "x" * 100_000])
@pytest.mark.parametrize("special", [True, False])
def test_ids_are_those_of_transformers(tiny_lm: LoadedModel, theirs: Any, text: str, special: bool) -> None:
    ours = tiny_lm.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    assert ours == theirs(text, add_special_tokens=special, verbose=False)["input_ids"]


def test_texts_and_facts_are_those_of_transformers(tiny_lm: LoadedModel, theirs: Any) -> None:
    ours = tiny_lm.tokenizer
    ids = theirs(SENTENCES[0])["input_ids"]
    assert isinstance(ours, BoundedTokenizer)
    assert ours.decode(ids) == theirs.decode(ids)
    assert [ours.decode([one]) for one in range(VOCAB)] == [theirs.decode([one]) for one in range(VOCAB)]
    assert ours.decode(VOCAB + 10**6) == theirs.decode(VOCAB + 10**6)
    assert ours.batch_decode([ids[:3], ids[3:]]) == theirs.batch_decode([ids[:3], ids[3:]])
    assert (ours.bos_token_id, ours.eos_token_id, len(ours)) == (0, 0, len(theirs))
    assert ours.chat_template is None


def test_a_template_gives_what_transformers_gives(altered: Callable[..., Path]) -> None:
    folder = altered(template=TEMPLATE)
    ours, theirs = opened(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.chat_template == TEMPLATE
    assert ours.apply_chat_template(TALK) == theirs.apply_chat_template(TALK, tokenize=False)
    assert ours.apply_chat_template([TALK, TALK[:1]]) == ["<user>Where?</><assistant>There.</>", "<user>Where?</>"]


def test_files_are_written_as_transformers_writes_them(tiny_lm: LoadedModel, theirs: Any, tmp_path: Path) -> None:
    def written(tokenizer: Any, name: str) -> dict[str, Any]:
        tokenizer.save_pretrained(tmp_path / name)
        return {one.name: json.loads(one.read_text()) for one in (tmp_path / name).iterdir()}

    before, ours = written(theirs, "theirs"), written(tiny_lm.tokenizer, "ours")
    before["tokenizer_config.json"].pop("local_files_only")  # tells how it was read
    assert ours == before
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="directory|exists") as caught:
        tiny_lm.tokenizer.save_pretrained(tmp_path / "file" / "folder")
    assert caught.value.errno == errno.ENOTDIR


def test_many_threads_ask_at_once(tiny_lm: LoadedModel, theirs: Any) -> None:
    texts = [f"{sentence} {place}" for place in range(25) for sentence in SENTENCES]
    found: dict[str, list[int]] = {}

    def work(mine: list[str]) -> None:
        found.update({text: tiny_lm.tokenizer(text)["input_ids"] for text in mine})

    threads = [threading.Thread(target=work, args=(texts[place::8],)) for place in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {text: theirs(text)["input_ids"] for text in texts}


def test_a_process_that_is_no_longer_needed_serves_the_next_folder(altered: Callable[..., Path]) -> None:
    folder = altered()
    first = opened(folder)
    process = first._opened._held[0]
    gc.collect()
    house.close_idle()
    del first
    assert house.idle == {False: process}
    assert opened(folder)._opened._held == [process]


def test_a_process_that_was_ended_while_it_waited_is_replaced(altered: Callable[..., Path]) -> None:
    folder = altered()
    house.close_idle()
    first = opened(folder)
    process = first._opened._held[0]
    del first
    gc.collect()
    process._process.kill()
    process._process.wait()
    second = opened(folder)
    assert second._opened._held != [process]
    assert process._to.closed
    assert second("a key")["input_ids"]


def test_who_loads_the_same_files_shares_the_process(altered: Callable[..., Path]) -> None:
    """As long as they are the same; the vocabulary is each one's own."""
    folder = altered()
    first, second = opened(folder), BoundedTokenizer("again", Place(folder))
    process = first._opened._held[0]
    assert second._opened is first._opened
    assert second.vocabulary is None
    assert second("a key") == first("a key")
    (folder / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text() + "\n")
    third = opened(folder)
    assert third._opened is not first._opened
    assert third("a key") == first("a key")
    house.close_idle()
    del first
    assert process.alive
    del second
    assert house.idle == {False: process}


def test_a_script_without_a_main_guard_may_load_a_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from quantcore.model.loading import load_model\n"
        f"print(load_model({str(tiny_model_dir)!r}, 'cpu').tokenizer('a key')['input_ids'])\n"
    )
    done = forked.run(str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "[0, " in done.stdout


# --- what is not: tried, refused. With the limits that a model meets.

GROWS = [{"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 20}] * 6
SWELLS = [{"type": "Replace", "pattern": {"Regex": "."}, "content": "e" * 200}] * 6
BEYOND = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [999], "tokens": ["<|endoftext|>"]}},
}


def ids_far_away(content: dict[str, Any]) -> None:
    content["model"]["vocab"] = {word: number + 10**7 for word, number in content["model"]["vocab"].items()}


REFUSED_AT_LOAD: dict[str, tuple[Change, str]] = {
    "panics at load": (
        lambda c: c.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "could not load .*: its tokenizer fails .PanicException: Precompiled",
    ),
    "grows the text without bound": (
        lambda c: c.update(normalizer={"type": "Sequence", "normalizers": GROWS}),
        "fails on a text of .* characters .it needed more than .* MB of memory and was stopped.; give another",
    ),
    "ids too large": (ids_far_away, "gives the token 10,000,.* and the model knows 300 tokens"),
    "a first token beyond": (lambda c: c.update(post_processor=BEYOND), "gives the token 999 and the model knows 300"),
    "is a number": (lambda c: c.update(model=5), "its tokenizer fails"),
    "leaves out merges at random": (
        lambda c: c["model"].update(dropout=0.5),
        "its tokenizer fails .*it leaves out merges at random, 50% of them, so no two readings of a text agree",
    ),
    "a negative id": (lambda c: c["model"]["vocab"].update(a=-1), "its tokenizer fails"),
    "a word list that lacks the word for others": (
        lambda c: c.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
        "fails on a text of .* Missing .UNK. token",
    ),
}


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("tried", REFUSED_AT_LOAD)
def test_a_tokenizer_tried_at_load_is_refused(altered: Callable[..., Path], tried: str, way: str) -> None:
    change, refusal = REFUSED_AT_LOAD[tried]
    folder = str(altered(tokenizer=change))
    with pytest.raises(ValueError, match=refusal) as caught:
        load_model(folder, "cpu") if way == "whole" else StreamedModel(folder, "cpu")
    assert len(str(caught.value).replace(folder, "")) < 400


REFUSED_ON_A_TEXT: dict[str, tuple[str, str, str]] = {
    "panics": ("(?:z|zz|zzz)+y", "z" * 400, "PanicException: Onig"),
    "searches without end": ("(?:z|zz|zzz)+y", ("z" * 22 + " ") * 4000, "it needed more than 2 s of processor time"),
}


@pytest.mark.parametrize("tried", REFUSED_ON_A_TEXT)
def test_a_tokenizer_that_fails_on_a_text_is_refused_there_and_lives_on(
    altered: Callable[..., Path], tried: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, tried)
    pattern, text, refusal = REFUSED_ON_A_TEXT[tried]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    lm = load_model(str(altered(tokenizer=lambda c: c.update(pre_tokenizer=split))), "cpu")
    before = token_windows(lm.tokenizer, SENTENCES[0], 8)
    with pytest.raises(ValueError, match=f"the tokenizer of .* fails on a text of .*{refusal}"):
        prompt_tokens(lm.tokenizer, text, 256)
    assert token_windows(lm.tokenizer, SENTENCES[0], 8).equal(before)


def test_a_decoder_that_swells_is_refused(altered: Callable[..., Path]) -> None:
    tokenizer = opened(altered(tokenizer=lambda c: c.update(decoder={"type": "Sequence", "decoders": SWELLS})))
    with pytest.raises(ValueError, match="cannot give 2 tokens as text .it needed more than .* MB of memory"):
        tokenizer.decode([5, 6])
    assert tokenizer("a key")["input_ids"]


REFUSED_TEMPLATES = {
    "never ends": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "it needed more than 1 s of processor time and was stopped",
    ),
    "takes memory": ("{{ ('x' * 3000000000)|length }}", "it needed more than .* MB of memory and was stopped"),
    "doubles and doubles": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
        "it needed more than .* MB of memory and was stopped",
    ),
    "calls itself": ("{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}", "maximum recursion depth exceeded"),
    "is nested": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "maximum recursion depth exceeded"),
    "is no template": ("{% for %}", "Expected an expression"),
    "reaches for the system": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "is unsafe"),
    "scolds at length": ("{{ raise_exception('no ' * 100000) }}", "no no no"),
}


@pytest.mark.parametrize("tried", REFUSED_TEMPLATES)
def test_a_template_is_refused_and_the_tokenizer_lives_on(
    altered: Callable[..., Path], tried: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, tried)
    template, refusal = REFUSED_TEMPLATES[tried]
    tokenizer = opened(altered(template=template))
    with pytest.raises(ValueError, match=f"^the chat template refuses 'mine': .*{refusal}") as caught:
        "".join(LoadedText("mine", ("Where is the key?",)).parts(tokenizer, chat=True))
    assert len(str(caught.value)) < 400
    assert tokenizer("a key")["input_ids"]


def test_a_template_that_writes_25_mb_is_refused(altered: Callable[..., Path]) -> None:
    tokenizer = opened(altered(template="{{ 'x' * 25000000 }}"))
    with pytest.raises(ValueError, match=r"the text has 25.0 MB, the limit is 20 MB"):
        "".join(LoadedText("mine", ("Where is the key?",)).parts(tokenizer, chat=True))


REFUSED_CONFIGS: dict[str, tuple[Change, str]] = {
    "code in the folder": (
        lambda c: c.update(auto_map={"AutoTokenizer": ["mine.Mine", None]}, tokenizer_class="Mine"),
        "it is code of the model's author, and this lab runs none",
    ),
    "code of another": (
        lambda c: c.update(auto_map={"AutoTokenizer": ["other/model--mine.Mine", None]}, tokenizer_class="Mine"),
        "it is code of the model's author, and this lab runs none",
    ),
    "a long template": (
        lambda c: c.update(chat_template="x" * 2_000_000),
        "its chat template has 2,000,000 characters",
    ),
    "a number for a word": (lambda c: c.update(bos_token=5), "bos_token"),
    "a class that is none": (lambda c: c.update(tokenizer_class=["a"]), "AttributeError"),
}


@pytest.mark.parametrize("tried", REFUSED_CONFIGS)
def test_a_tokenizer_config_is_refused(altered: Callable[..., Path], tried: str) -> None:
    change, refusal = REFUSED_CONFIGS[tried]
    folder = altered(config=change)
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match=f"could not load .*: its tokenizer fails .*{refusal}") as caught:
        opened(folder)
    assert len(str(caught.value).replace(str(folder), "")) < 400
    assert not (folder / "ran").exists()


def nested(file: Path) -> None:
    file.write_text('{"a":' * 1_000_000 + "1" + "}" * 1_000_000)


def long(file: Path) -> None:
    os.truncate(file, 200_000_000)


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


REFUSED_FILES: dict[Callable[[Path], None], str] = {
    nested: "RecursionError",
    long: "its tokenizer.json has 200 MB and the limit of such a file is 100 MB",
    fifo: "its 'tokenizer.json' is no plain file",
    endless: "its 'tokenizer.json' is no plain file",
    Path.unlink: "its tokenizer fails",
}


@pytest.mark.parametrize("tried", REFUSED_FILES, ids=lambda tried: tried.__name__)
def test_a_tokenizers_file_is_refused(altered: Callable[..., Path], tried: Callable[[Path], None]) -> None:
    folder = altered()
    tried(folder / "tokenizer.json")
    with pytest.raises(ValueError, match=f"could not load .*: .*{REFUSED_FILES[tried]}"):
        opened(folder)
