"""The pages of the documentation, and the blocks of code in them."""

import re
from pathlib import Path

from tests.serving import ROOT

README, CONTRIBUTING, DOCS = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.md"))
WRITTEN = [README, CONTRIBUTING, *PAGES, *sorted((DOCS / "adr").glob("*.md")), *EXAMPLES]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page that are marked as of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def short(page: Path) -> str:
    return str(page.relative_to(ROOT))
