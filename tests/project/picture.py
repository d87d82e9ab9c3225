"""The README's picture: `python -m tests.project.picture`, after the browser test has kept its own (`make picture`)."""

from pathlib import Path

from PIL import Image

from tests.e2e.pages import SCREENSHOTS
from tests.project.pages import DOCS

KEPT, PICTURE = SCREENSHOTS / "stream-1280-light.png", DOCS / "images" / "stream.webp"
SIZE = (1280, 940)
MOST_BYTES = 60_000


def make(kept: Path, picture: Path) -> None:
    """Write the upper part of a kept picture of a stream's page as WebP."""
    with Image.open(kept) as whole:
        whole.convert("RGB").crop((0, 0, *SIZE)).save(picture, "WEBP", quality=80, method=6)


if __name__ == "__main__":
    make(KEPT, PICTURE)
