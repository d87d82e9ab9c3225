"""`python -m tests.project.generated`: write every generated page."""

from tests.project.generated.pages import GENERATED

for file, made in GENERATED.items():
    file.write_text(made(), encoding="utf-8")
