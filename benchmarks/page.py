"""What the commands that write one page have in common."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from serving.config import ServingError
from serving.files import write_whole


def written(page: Path, make: Callable[[], str]) -> int:
    """Makes the text, writes it as the page and prints it; the exit code. Ctrl-C and errors leave the page alone."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended however this is
    try:
        text = make()
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, text.encode())
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0
