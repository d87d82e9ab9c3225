"""What a server process holds, read from /proc."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """Bytes in memory, threads and open files of a process at a moment."""

    rss: int
    threads: int
    files: int


def held(pid: int) -> Held:
    """Measure a process."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    files = len(list((Path("/proc") / str(pid) / "fd").iterdir()))
    return Held(int(facts["VmRSS"].split()[0]) * 1024, int(facts["Threads"]), files)
