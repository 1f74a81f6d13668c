"""The process of one part: ``python -m mimo_benchmarks.gpu.work``, with the task as a line on standard input.

Exit code 0: measured; 3: what it measures is not here; 1: an error, whose line is the last one on standard error.
"""

from __future__ import annotations

import sys

from mimo_runtime.errors import MimoError

from .parts import PARTS
from .runner import EXIT_ABSENT
from .task import PartTask, UnavailableError, emit_line


def main() -> int:
    """Do the work."""
    task = PartTask.from_json(sys.stdin.readline())
    try:
        PARTS[task.name].begin(task, emit_line)
    except UnavailableError as reason:
        print(reason, file=sys.stderr)
        return EXIT_ABSENT
    except MimoError as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
