"""The command `acclimate`, which `python -m service` is as well."""

import sys
from importlib import import_module

INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it; Ctrl-C ends it without a traceback, while it is still loading too."""
    try:
        import_module("service.cli.main").main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
