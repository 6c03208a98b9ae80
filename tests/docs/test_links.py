"""The pages lead to each other, and to nothing that is not there."""

from pathlib import Path

import pytest
from tests.docs.pages import ROOT, anchors, links

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def target(page: Path, link: str) -> tuple[Path, str]:
    """The file that a link leads to, and the heading in it."""
    path, _, anchor = link.partition("#")
    return (page.parent / path if path else page).resolve(), anchor


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    """Files are in the repository, headings in their pages."""
    page = ROOT / name

    for link in links(page):
        if "://" in link:
            continue
        path, anchor = target(page, link)
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_the_readme_leads_to_every_page() -> None:
    """A page that nobody finds is not read."""
    found = {target(ROOT / "README.md", link)[0] for link in links(ROOT / "README.md")}

    assert {page for page in PAGES if page.name != "README.md"} <= found
