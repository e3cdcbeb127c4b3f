"""Strangers' words as Markdown: shown as they are, whatever they say; ordinary sentences stay ordinary."""

import re

import pytest

from ui.markdown import as_is, code, plotted
from ui.words.names import by_name, named

HOSTILE = [
    "![x](http://evil.test/a.png)",
    "[login](http://evil.test)",
    "[a]: http://evil.test",
    "<img src=http://evil.test/a.png>",
    "<https://evil.test>",
    "http://evil.test and HTTPS://evil.test",
    "www.evil.test, WWW.evil.test",
    "me@evil.test",
    "**bold** _slanted_ ~~gone~~ `code` $x^2$",
    ":red[x] :blue-badge[x] :material/home: :smile: :streamlit: a:red b:small[x]",
    "# heading",
    "> quoted",
    "- point",
    "1. point",
    "12) point",
    "one\n\n# two\n\n- three",
    "&lt;b&gt; &#58; &amp;",
    "\\[x](y) \\",
    "`one` [two](three) `four`",
    "` [x](http://evil.test) `` y",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_read_in_it(text: str) -> None:
    bare = re.sub(r"`[^`]+`", "", as_is(text))  # in code nothing is read
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", bare)  # what is escaped
    assert not re.search(r"[*`~$<\[\]]|(?<!\w)_|_(?!\w)", bare)
    assert not re.search(r"(?i)https?://|www\.|@\w+\.|&#?\w+;", bare)
    assert not re.search(r":[A-Za-z][\w-]*(?=[:\[\s]|$)|:material/", bare)
    assert not re.match(r"#|>|[-+=]|\d+[.)]", bare)
    assert "\n" not in bare


@pytest.mark.parametrize("text", HOSTILE)
def test_all_of_it_is_shown(text: str) -> None:
    shown = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", as_is(text).replace("\N{WORD JOINER}", ""))
    assert shown == " ".join(text.split())


@pytest.mark.parametrize(
    "sentence",
    [
        "group77 does not divide model.layers.0.mlp.down_proj, 384 x 1024 (output x input); try group128, or channel",
        "no granularity is called 'rows'; a weight has tensor, channel, group128 or block128x128",
        "a compressed-tensors checkpoint cannot hold this: its float codes are fp8_e4m3, and w:fp4_e2m1/group32 has it",
        "8 sequences of 512 tokens are 4,096, and the pages draw at most 2,048; take fewer or shorter ones",
        "'/models/large', 0.1 M parameters as float32, needs 0.4 MiB; or from a shell: `python -m quantcore quantize`",
        "w:int8/channel,a:int8/token/dynamic at 50% (half), 10:20 UTC; owner/name@main",
    ],
)
def test_a_sentence_of_ours_stays_as_it_is(sentence: str) -> None:
    assert as_is(sentence) == sentence


def test_an_option_keeps_its_two_dashes() -> None:
    assert as_is("choose a new name, or use --force (or --max-tokens 5)") == (
        "choose a new name, or use `--force` (or `--max-tokens` 5)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("down_proj", "`down_proj`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("two\nlines", "`two lines`"),
        ("", "` `"),
    ],
)
def test_code_holds_whatever_it_is_given(text: str, expected: str) -> None:
    assert code(text) == expected


def test_a_picture_reads_no_tag_and_no_colour() -> None:
    assert plotted('<a href="x">&</a> var(--blue)') == '&lt;a href="x"&gt;&amp;&lt;/a&gt; var (--blue)'


def test_a_plans_name_is_no_address() -> None:
    assert named("W3A16@mlp.down_proj=W8A16").startswith("W3A16@\N{WORD JOINER}mlp.down_proj=")
    assert named("w:int4/channel,gptq") == "w:int4/channel,gptq"


def test_a_menu_has_the_names_of_the_tables() -> None:
    assert by_name(["w:int3/group128", "w:int4/channel"]) == {
        "W3A16": "w:int3/group128",
        "w:int4/channel": "w:int4/channel",
    }
    long = [f"w:int3/channel@mlp.down_proj=w:int8/channel@model.layers.{place}=float" for place in (1, 2)]
    assert by_name(long) == dict(zip(long, long, strict=True))  # cut short, both would be called alike
