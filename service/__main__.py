"""The command `acclimate`, also available as `python -m service`."""

import sys
from importlib import import_module

INTERRUPTED = 130


def main() -> None:
    """Load and run the command line. Ctrl-C ends it without a traceback, even while it loads."""
    try:
        import_module("service.cli.main").main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
