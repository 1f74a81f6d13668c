"""NVIDIA TensorRT 10.3 (JetPack 6) to 11: one ONNX graph to one engine plan, on the machine that will run it.

    options -> forecast -> a child process (worker -> compile -> network) -> layers -> Built

``library`` is the only module that imports ``tensorrt``; everything else takes the module as an argument, so that the same code
drives TensorRT for RTX, whose compiler needs no GPU, and the mocks of the tests. ``versions`` says what a release can do.
"""

from .build import Built, Progress, build_engine
from .options import Options
from .versions import Features, features

__all__ = ["Built", "Features", "Options", "Progress", "build_engine", "features"]
