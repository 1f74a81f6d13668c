"""Workers of a Ray cluster: an actor pool of Ray Data, each with a model of its own.

Ray Data limits what is under way, so a slow consumer holds back the actors. All machines of the cluster see the inputs, the
bundle and the output folder under the same paths, and have the same version of this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from ...errors import EngineError, RequestError
from .answering import Answerer, Outcome, OutputError
from .items import BatchItem
from .settings import BatchSettings


class RayAnswerer:
    """The actor. Args as :class:`Answerer`."""

    def __init__(self, settings: BatchSettings, done: frozenset[str]) -> None:
        self._answerer = Answerer(settings, done)

    def __call__(self, batch: Mapping[str, Sequence[BatchItem]]) -> dict[str, list[str]]:
        """Outcomes of the items of a batch, as JSON."""
        return {"outcome": [self._answerer(item).to_json() for item in batch["item"]]}


def require_ray() -> None:
    """Refuse the engine where Ray is missing, before the output folder exists. Raises ModuleNotFoundError."""
    import ray  # noqa: F401


def answer_with_ray(
    settings: BatchSettings, done: frozenset[str], items: Sequence[BatchItem], jobs: int, address: str | None
) -> Iterator[Outcome]:
    """The outcomes in the order in which Ray yields them.

    Args:
        jobs: actors; each takes ``settings.threads`` processors, at least one.
        address: of a running cluster; None takes that of ``RAY_ADDRESS``, and starts one of this machine without it.

    Raises:
        RequestError: the cluster does not answer.
        OutputError: a result cannot be written.
        EngineError: an actor failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report the use of Ray over the network
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    processors = max(1, settings.threads or 1)
    own = not ray.is_initialized()
    if own:
        here: dict[str, object] = {} if address else {"num_cpus": processors * jobs, "include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RequestError(f"the Ray cluster does not answer: {type(error).__name__}", "Check --ray-address") from None
    try:
        yield from _outcomes(settings, done, items, jobs, processors)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, OutputError):
            raise OutputError(cause.what, cause.remedy) from None
        raise EngineError(f"a worker of Ray failed: {type(cause or error).__name__}", "Run it again: it resumes") from None
    finally:
        if own:
            ray.shutdown()


def _outcomes(
    settings: BatchSettings, done: frozenset[str], items: Sequence[BatchItem], jobs: int, processors: int
) -> Iterator[Outcome]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items([{"item": item} for item in items], override_num_blocks=min(len(items), 8 * jobs))
    answered = data.map_batches(
        RayAnswerer, batch_size=1, num_cpus=processors, compute=ray.data.ActorPoolStrategy(size=jobs),
        fn_constructor_kwargs={"settings": settings, "done": done},
    )  # fmt: skip
    for row in answered.iter_rows():
        yield Outcome.of_json(row["outcome"])
