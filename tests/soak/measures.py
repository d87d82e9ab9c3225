"""What a server process holds, read from /proc and from its own metrics."""

from dataclasses import dataclass
from pathlib import Path

TASKS = "acclimate_tasks_active "


@dataclass(frozen=True)
class Held:
    """Bytes in memory, threads, open files and unfinished tasks of a process at a moment."""

    rss: int
    threads: int
    files: int
    tasks: int


def held(pid: int, metrics: str) -> Held:
    """Measure a process that tells these metrics."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    files = len(list((Path("/proc") / str(pid) / "fd").iterdir()))
    (tasks,) = (line.removeprefix(TASKS) for line in metrics.splitlines() if line.startswith(TASKS))
    return Held(int(facts["VmRSS"].split()[0]) * 1024, int(facts["Threads"]), files, int(float(tasks)))
