"""The README's generated tables: `python -m tests.project.tables` writes them, a test compares them."""

import re
from pathlib import Path

from adapters.registry import FOLDERS, parts
from service.settings import Settings

README = Path(__file__).parents[2] / "README.md"


def adapters() -> str:
    rows = ["| part | kind | remembers | needs | paper |", "| --- | --- | --- | --- | --- |"]
    for kind in FOLDERS:
        for part in parts(kind).values():
            if part.name != "none":
                needs = re.search(r"Needs: (.*?)\n\s*(?:Reference|\n)", part.__doc__ or "", re.DOTALL)
                needed = " ".join(needs[1].split()).rstrip(".") if needs else ""
                rows.append(f"| `{part.name}` | {kind} | {part.remembers} | {needed} | {part.paper} |")
    return "\n".join(rows)


def settings() -> str:
    rows = ["| setting | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "the embedded model" if name == "bundles" else f"`{field.default}`"
        what = " ".join((field.description or "").split())
        rows.append(f"| `ACCLIMATE_{name.upper()}` | {default} | {what} |")
    return "\n".join(rows)


TABLES = {"adapters": adapters, "settings": settings}


def filled(text: str) -> str:
    """Return the README with its tables as they should be."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        made = table().replace("\\", r"\\")
        text = re.sub(pattern, rf"\g<1>{made}\n\g<2>", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
