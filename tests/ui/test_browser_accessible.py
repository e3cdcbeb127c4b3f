"""Every page, light and dark, asked by axe-core (WCAG 2 A and AA); and the words in pictures, which axe passes by. And
what the page asked of other machines, or the server's policy had to forbid it: nothing."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser_fixtures import ROOT, serving, wait_until, watched
from ui.menu import sections

pytestmark = pytest.mark.browser

PATHS = [path for pages in sections().values() for path in pages.values()]
RULES = {
    "resultTypes": ["violations"],  # the rest is not written down, which is half of axe's work
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "rules": {"heading-order": {"enabled": True}, "page-has-heading-one": {"enabled": True}},
}
WITHOUT_PICTURES = {"exclude": [".lab-chart svg"]}  # whose words `PALE` looks at
COLOURS = {  # all that another theme changes
    "resultTypes": ["violations"],
    "runOnly": {"type": "rule", "values": ["color-contrast"]},
}
# Streamlit's own, beyond our reach: (rule, a part of the element's HTML) -> why.
THEIRS: dict[tuple[str, str], str] = {
    ("color-contrast", 'class="token'): "the colours of st.code's highlighting",
    ("scrollable-region-focusable", "<pre class"): "st.code's long lines scroll, and cannot be reached by Tab",
}
LOOKS = 3  # a violation stands in all of them: while a page works, things come and go above its text
SLOW = ("3_", "5_", "6_", "7_", "8_", "9_", "10_", "13_", "14_", "16_")  # a tiny model, for what they draw then
READY = """() => document.querySelector('[data-testid="stApp"]')?.dataset.testScriptState !== 'running'
    && document.querySelector('[data-testid="stExpander"]') && !document.querySelector('[data-testid="stProgress"]')
    && [...document.querySelectorAll('.lab-chart')].every((chart) => Number(chart.dataset.drawn) > 0)"""
PALE = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const page = rgb(getComputedStyle(document.querySelector('[data-testid="stApp"]')).backgroundColor);
  const found = [];
  for (const text of document.querySelectorAll('.lab-chart svg text, .lab-line svg text, .lab-player svg text')) {
    if (!text.textContent.trim() || text.closest('.heatmaplayer, .bars, .hm, .modebar, .hoverlayer')) continue;
    const style = getComputedStyle(text);
    const opacity = Number(style.opacity) * Number(style.fillOpacity);
    const seen = rgb(style.fill).map((c, i) => opacity * c + (1 - opacity) * page[i]);
    const [bright, dim] = [light(page), light(seen)].sort((one, other) => other - one);
    const contrast = (bright + 0.05) / (dim + 0.05);
    const said = `${text.closest('[data-key]')?.dataset.key}: ${text.textContent.slice(0, 40)}`;
    if (parseFloat(style.fontSize) < 12) found.push(`${said}: ${style.fontSize}`);
    if (contrast < 4.5) found.push(`${said}: ${style.fill}, contrast ${contrast.toFixed(1)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its own: the jobs that the slow pages start end with it."""
    with serving(ROOT / "serve.py", tmp_path_factory.mktemp("axe")) as url:
        yield url


@pytest.mark.parametrize("path", PATHS)
def test_no_page_keeps_anybody_out(page: Any, own_server: str, tiny_model_dir: Path, path: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    model = f"?model={quote(str(tiny_model_dir))}" if Path(path).name.startswith(SLOW) else ""
    found = []
    with watched(page, own_server) as strays:
        page.goto(f"{own_server}/{Path(path).stem.partition('_')[2] if path != 'app.py' else ''}{model}")
        for theme, rules in (("light", RULES), ("dark", COLOURS)):
            page.emulate_media(color_scheme=theme)
            for _ in range(LOOKS):
                wait_until(page, READY)
                page.wait_for_timeout(500)  # colours fade from theme to theme
                if not (seen := violations(page, axe, rules)):
                    break
            found += [f"{theme}, {one}" for one in seen]
    assert found == []
    assert page.locator(".stException").count() == 0
    assert strays == []


def violations(page: Any, axe: Any, rules: dict[str, Any]) -> list[str]:
    """What axe and `PALE` find on the page as it stands, but for what is Streamlit's own."""
    found, where = [], None if rules is RULES else WITHOUT_PICTURES
    for violation in axe.run(page, where, rules).response["violations"]:
        for node in violation["nodes"]:
            if not any(rule == violation["id"] and part in node["html"] for rule, part in THEIRS):
                found.append(f"{violation['id']}: {node['html'][:200]}")
    return [*found, *page.evaluate(PALE)]
