"""What stands in the menu: a page's file says its title and its section, and its name begins with its place there."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("", "Learn", "Lab", "Decide")  # the first page stands above them all
TITLE = re.compile(r'^TITLE = "(.+)"$', re.MULTILINE)
SECTION = re.compile(r'^SECTION = "(.+)"$', re.MULTILINE)


@cache
def sections() -> dict[str, dict[str, str]]:
    """Section -> title -> the page's file; a page without a title is none of the menu's.

    Raises: ValueError for a section that the menu does not have."""
    found: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    for file in (ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py"), key=_place)):
        text = file.read_text(encoding="utf-8")
        title, section = TITLE.search(text), SECTION.search(text)
        if title is None:
            continue
        name = section[1] if section else ""
        if name not in found or (not name and file.name != "app.py"):
            raise ValueError(f"{file.name} has SECTION {name!r}; the menu has {', '.join(SECTIONS[1:])}")
        found[name][title[1]] = page_of(str(file))
    return found


def title_of(path: str) -> str:
    """What the menu calls a page's file."""
    return next(title for pages in sections().values() for title, one in pages.items() if one == path)


def page_of(file: str) -> str:
    """A page's file as links name it."""
    return Path(file).resolve().relative_to(ROOT).as_posix()


def _place(file: Path) -> int:
    return int(file.name.partition("_")[0])
