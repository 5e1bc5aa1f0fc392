"""`python -m daemon`: the same as the `ocr-daemon` command."""

from __future__ import annotations

if __name__ == "__main__":
    # Worker processes load this file again under another name; they must not load the command line.
    import sys

    from daemon.cli import main

    sys.exit(main())
