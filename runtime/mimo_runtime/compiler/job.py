"""What a parent hands to its child process, and what comes back: files in a temporary folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ..hardware.nvidia import CudaDevice
from ..model.graph_spec import GraphSpec
from .network import Range
from .options import Options

#: Names in the folder: what goes in, what comes out, and what the child and its libraries print.
JOB, GRAPH, PLAN, LAYERS, CACHE, LOG = "job.json", "graph.onnx", "engine.plan", "layers.json", "timing.cache", "log.txt"


class WorkerResult(TypedDict):
    """What the child process says of an engine that it has built."""

    version: str
    cache_state: str
    cache_file: str | None


@dataclass(frozen=True)
class Job:
    """One engine to build."""

    #: ``tensorrt`` or ``tensorrt-rtx``.
    api: str
    spec: GraphSpec
    profiles: tuple[dict[str, Range], ...]
    options: Options
    device: CudaDevice | None
    #: Operators of the graph that not every release has: see ``versions.NEEDS``.
    operators: tuple[str, ...]

    def write(self, folder: Path) -> None:
        fields = {
            "api": self.api,
            "graph": self.spec.name,
            "contract": self.spec.to_dict(),
            "profiles": self.profiles,
            "options": self.options.to_dict(),
            "device": self.device.to_dict() if self.device else None,
            "operators": self.operators,
        }
        (folder / JOB).write_text(json.dumps(fields), "utf-8")

    @staticmethod
    def read(folder: Path) -> Job:
        fields = json.loads((folder / JOB).read_text("utf-8"))
        return Job(
            fields["api"],
            GraphSpec.from_dict(fields["graph"], fields["contract"]),
            tuple({axis: (s[0], s[1], s[2]) for axis, s in profile.items()} for profile in fields["profiles"]),
            Options.from_dict(fields["options"]),
            CudaDevice.from_dict(fields["device"]) if fields["device"] else None,
            tuple(fields["operators"]),
        )
