"""The model that Triton's Python backend runs; ``mimo-export triton`` copies this file into the repository.

It needs ``mimo_runtime`` with an engine in the Python environment of the backend, and nothing of ``mimo_export``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The interface of the Python backend: ``initialize``, ``execute``, ``finalize``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle beside this file. Raises RuntimeError: numpy does not fit this server."""
        sample = np.array([b"mimo\x00"], object)
        if list(pb_utils.Tensor("sample", sample).as_numpy()) != list(sample):
            raise RuntimeError(
                f"this Triton server and numpy {np.__version__} do not fit: tensors come back changed. Install numpy below 2"
            )
        if args["model_instance_kind"] == "GPU":
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        from mimo_runtime.services.host import HostOptions
        from mimo_runtime.services.triton_model import TritonAnswerer

        named = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in named.items()}
        threads = parameters.get("threads")
        options = HostOptions(threads=None if threads is None else int(threads))
        bundle = Path(args["model_repository"]) / args["model_version"] / parameters["bundle"]
        self._answerer = TritonAnswerer(bundle, options, int(parameters.get("callers", "1")))

    def execute(self, requests: list[object]) -> list[object]:
        """A response for each request; a request may be a batch of several images."""
        batches = [
            (_bytes_of(request, "image"), _bytes_of(request, "request")) for request in requests
        ]  # fmt: skip
        pairs = [pair for images, questions in batches for pair in zip(images, questions)]
        answers = iter(self._answerer.answer_all(pairs))
        return [_response([next(answers) for _ in images]) for images, _ in batches]

    def finalize(self) -> None:
        """Free the model."""
        self._answerer.close()


def _bytes_of(request: object, name: str) -> list[bytes]:
    return [bytes(value) for value in pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)]


def _response(answers: list[bytes | Exception]) -> object:
    """The answers of one request. It fails as a whole with the first reason."""
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if errors:
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(errors[0])))
    return pb_utils.InferenceResponse([pb_utils.Tensor("answer", np.array(answers, object).reshape(-1, 1))])
