"""What a model of the Triton Inference Server answers: a file and a question as JSON, in the formats of the HTTP service.

The model repository that ``mimo-export triton`` writes calls it from Triton's Python backend. Nothing here imports Triton.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import MimoError, RequestError
from ..utils.log import LOGGER
from .host import HostOptions, Served, load_verified
from .http.answers import Answered, answer_json, to_bytes
from .http.asking import check_objects
from .http.bodies import AskBody
from .http.fields import read_json
from .jobs import Job


class TritonAnswerer:
    """A bundle that has passed its golden samples, and answers batches.

    Args:
        bundle: a folder or a ``.mimo`` file.
        options: how it is loaded.
        callers: images of a batch that are answered at once, in threads.

    Raises:
        BundleError, EngineError, VerificationError: see ``services.host.load_verified``.
    """

    def __init__(self, bundle: Path, options: HostOptions, callers: int = 1) -> None:
        mimo, samples = load_verified(bundle, options)
        self._served = Served(mimo, 1, samples)
        self._pool = ThreadPoolExecutor(callers, "mimo-triton") if callers > 1 else None

    def answer_all(self, batch: Sequence[tuple[bytes, bytes]]) -> list[bytes | MimoError]:
        """An answer, or the reason why there is none, for each pair of image and request."""
        if self._pool is None or len(batch) == 1:
            return [self._answer(*pair) for pair in batch]
        return list(self._pool.map(lambda pair: self._answer(*pair), batch))

    def answer(self, image: bytes, request: bytes) -> bytes:
        """The answer about one image as JSON, with the fields of ``POST /v1/ask``.

        Args:
            image: bytes of a file.
            request: fields of ``AskBody`` as JSON, without ``image``.

        Raises:
            RequestError: an image or a field that cannot be read, or a question that does not fit the image.
            EngineError, MemoryLimitError, DeadlineError: the request is not answered.
        """
        began = time.monotonic()
        body = read_json(request, AskBody)
        if body.image is not None:
            raise RequestError("the request names a stored image", "Send the file as the tensor image")
        check_objects(body)
        if body.deadline_ms is not None and not 0 < body.deadline_ms < 1e12:
            raise RequestError("deadline_ms is no time above 0", "Use milliseconds, e.g. 2000")
        job = Job(deadline=None if body.deadline_ms is None else began + body.deadline_ms / 1000)
        asked, reading = body.request(job), body.reading
        scan = self._served.mimo.open(
            image, frame=reading.frame, modality=reading.modality, window=reading.window, should_stop=job.is_stopped,
            deadline=job.deadline,
        )  # fmt: skip
        answer = scan.ask_request(asked)
        digest = hashlib.sha256(image).hexdigest()
        return to_bytes(answer_json(Answered(self._served, digest, scan, asked, answer), body, job.id, None))

    def _answer(self, image: bytes, request: bytes) -> bytes | MimoError:
        try:
            return self.answer(image, request)
        except MimoError as error:
            return error
        except Exception as error:  # its message may hold values of the file
            LOGGER.error("a request of Triton failed: %s", type(error).__name__)
            return MimoError(f"internal error: {type(error).__name__}")

    def close(self) -> None:
        """Free the model."""
        if self._pool is not None:
            self._pool.shutdown()
        self._served.mimo.close()
