"""Measures the model on a machine with an NVIDIA GPU: one run of under nine minutes that installs nothing.

    python benchmarks/gpu_acceptance.py --checkpoint checkpoints/mimo-tiny -o benchmarks/results/gpu

It runs from a checkout as it is; ``mimo-edge`` need not be installed. See docs/how-to/measure.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = [str(REPOSITORY / name) for name in (".", "runtime", "export", "calibration", "benchmarks")]

if __name__ == "__main__":
    # Also for the processes of the parts.
    os.environ["PYTHONPATH"] = os.pathsep.join([*FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path[:0] = FOLDERS
    from mimo_benchmarks.gpu.acceptance import main

    main()
