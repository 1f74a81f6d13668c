"""The contenders of the latency benchmark: the bundle in its runtime (``mimo``), and the alternatives to it.

================ ===================================================================================================
mimo             the bundle through ``mimo_runtime``, as a device runs it
torch            the checkpoint in PyTorch eager, through the same pipeline: the same caches, the same masks beside text
torch-bf16       the same under autocast to BF16
compile          the same with ``torch.compile``
ort              the FP32 ONNX files in the reference pipeline with ONNX Runtime: default options, no cache
openvino         the same files in the reference pipeline with OpenVINO: latency hint, FP32, static shapes where possible
openvino-default the same files with OpenVINO without any option
optimum          the same files in the reference pipeline as Optimum's ``ORTModelForCustomTasks`` on CPU: default options
transformers     a text decoder of equal size in ``transformers``' ``generate``: tokens per second only
genai            the same decoder in ONNX Runtime GenAI
sam2, edgetam,   promptable segmenters of the SAM family with random weights, from ``transformers``: masks only
sam-hq
================ ===================================================================================================

Those over ONNX files encode the image for every request, because such a script has no cache.
"""

from __future__ import annotations

from .base import Contender as Contender
from .base import ContenderSetup as ContenderSetup
from .base import ContenderSpec as ContenderSpec
from .base import Sample as Sample
from .pipelines import PipelineContender as PipelineContender
from .registry import CONTENDERS as CONTENDERS
