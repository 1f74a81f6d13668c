"""One model over all stored images, in the background; the labels are kept with the images."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import TypedDict

from ...errors import BusyError, MimoError, RequestError
from ..http.service import Service
from .datastore import Datastore, StoredFiles
from .formats import label_file
from .inference import InferParams, infer


class BatchJson(TypedDict):
    """A run over images."""

    id: str
    model: str
    status: str
    start_ts: float
    end_ts: float | None
    total: int
    completed: int
    details: list[str]


class Batches:
    """The last run of a service; one at a time.

    Args:
        service: shared.
        datastore: the images.
    """

    def __init__(self, service: Service, datastore: Datastore) -> None:
        self._service, self._datastore = service, datastore
        self._task: asyncio.Task[None] | None = None
        self.state: BatchJson | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self._task is not None and not self._task.done()

    async def start(self, model: str, images: Sequence[StoredFiles], *, waits: bool) -> BatchJson:
        """Begin a run.

        Args:
            waits: for its end.

        Raises:
            BusyError: one goes on.
            RequestError: no images.
        """
        if self.is_running:
            raise BusyError(1, 0)
        if not images:
            raise RequestError("no image waits for a label", "Upload images first")
        state: BatchJson = {
            "id": str(uuid.uuid4()), "model": model, "status": "RUNNING", "start_ts": time.time(), "end_ts": None,
            "total": len(images), "completed": 0, "details": [],
        }  # fmt: skip
        self.state = state
        self._task = asyncio.create_task(self._run(state, list(images)))
        if waits:
            await self._task
        return state

    def stop(self) -> BatchJson | None:
        """End the run."""
        if self._task is not None and self._task.cancel() and self.state is not None:
            self.state["status"] = "CANCELED"
        return self.state

    async def _run(self, state: BatchJson, images: list[StoredFiles]) -> None:
        try:
            for number, image in enumerate(images, 1):
                try:
                    await self._label(state["model"], image)
                    state["completed"] += 1
                except MimoError as error:
                    state["details"].append(f"image {number}: {error}"[:300])
            state["status"] = "DONE" if state["completed"] == len(images) else "ERROR"
        finally:
            state["end_ts"] = time.time()

    async def _label(self, model: str, image: StoredFiles) -> None:
        job = self._service.jobs.new()

        def work() -> bytes:
            with self._service.host.use() as served:
                opened = self._datastore.open(served.mimo, image)
                labels, _ = infer(served.mimo, job, model, opened, InferParams())
                return label_file(labels, opened.grid.affine, ".nii.gz")

        data = await self._service.jobs.run(job, work)
        self._datastore.save_label(image.name, "original", data)
