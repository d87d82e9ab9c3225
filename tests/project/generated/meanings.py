"""What fields of answers, signals, actions, events and labels mean, as `meanings.toml` says."""

import tomllib
from pathlib import Path

_READ = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FIELDS: dict[str, str] = _READ["fields"]
SIGNALS: dict[str, dict[str, str]] = _READ["signals"]
"""`unit` and `meaning` of each."""
ACTIONS: dict[str, str] = _READ["actions"]
EVENTS: dict[str, str] = _READ["events"]
CAUSES: dict[str, str] = _READ["causes"]
LABELS: dict[str, str] = _READ["labels"]
