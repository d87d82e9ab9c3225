"""What the process that servers are forked from imports; nothing here may start a thread or read a setting."""

import gc

import service.cli.main
import service.cli.serve
import service.server
from adapters.registry import FOLDERS, parts

LOADED = (
    service.cli.main,
    service.cli.serve,
    service.server,
    *(part for kind in FOLDERS for part in parts(kind).values()),
)

gc.freeze()  # each forked process would search all of this for garbage again
