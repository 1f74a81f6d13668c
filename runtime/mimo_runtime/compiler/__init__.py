"""NVIDIA TensorRT 10.3 (JetPack 6) to 11 and TensorRT for RTX: one ONNX graph to one engine plan.

    options -> memory -> a child process (worker -> compile -> network) -> precision_audit -> Built

A device compiles with this package and its engine only: nothing here reads an ONNX file, what must be known of one comes as
``Facts``. The libraries come from ``engines.tensorrt_library``. Everything else takes the module as an argument, so that the
same code drives TensorRT, TensorRT for RTX and the mocks of the tests. ``versions`` says what a release can do;
``compile_bundle`` does all graphs of a bundle.
"""

from .build import Built, CompilerStep, Facts, build_engine
from .options import Options
from .versions import NEEDS, Features, features

__all__ = ["NEEDS", "Built", "CompilerStep", "Facts", "Features", "Options", "build_engine", "features"]
