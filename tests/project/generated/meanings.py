"""What fields of answers, signals, actions, events and labels mean, as `meanings.toml` says."""

import tomllib
from pathlib import Path

from service.monitoring.signals import every_signal

_READ = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FIELDS: dict[str, str] = _READ["fields"]
SIGNALS: dict[str, tuple[str, str]] = {
    name: (signal.unit, signal.meaning) for name, signal in every_signal().items()
} | {name: (said["unit"], said["meaning"]) for name, said in _READ["signals"].items()}
"""Unit and meaning of each: from its descriptor; for a signal of one method alone, from the file."""
ACTIONS: dict[str, str] = _READ["actions"]
EVENTS: dict[str, str] = _READ["events"]
CAUSES: dict[str, str] = _READ["causes"]
LABELS: dict[str, str] = _READ["labels"]
