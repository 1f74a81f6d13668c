"""A request with everything that decides its answer."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar, cast

import numpy as np

from .errors import PromptError, RequestError
from .model.config import MimoConfig
from .preprocessing.prompts import Prompt
from .text.generation import SamplingParams
from .tiling.grid import TileArgument, Tiles
from .utils.arguments import is_whole
from .utils.cancellation import check_stopping
from .utils.messages import shown

Arguments = ParamSpec("Arguments")
Self = TypeVar("Self")
Returned = TypeVar("Returned")

#: Rows of numbers: a list of tuples, or an array ``[N, K]``.
Rows = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class AskRequest:
    """What ``Scan.ask`` and ``Scan.stream`` take, checked and typed. :meth:`of` makes it of their arguments.

    Args:
        prompt: text and references.
        masks: whether findings with masks are wanted; without, ``Answer.findings`` is empty.
        text_answer: whether a text is wanted; without, ``Answer.text`` is "".
        refine: whether the target's mask is refined (:meth:`of`).
        max_tokens: longest text in tokens; None is the model's limit.
        sampling: how tokens are chosen.
        any_domain: whether an image that is unlike those of the training is answered as any other (:meth:`of`).
        should_stop: called between the stages, before every token and crop, and every 10 ms while a graph or the masks are
            waited for, always in the caller's thread. True ends the answer with ``finish_reason`` "cancelled": a text is cut
            off, a mask not refined.
        deadline: a moment of ``time.monotonic()``, in seconds: ``time.monotonic() + 0.2``. When it passes, the answer ends as
            by ``should_stop``, with ``finish_reason`` "deadline".
        tiles: where the mask of a name comes from overlapping tiles of the image (:meth:`of`); None asks the image as a whole.
        names: names of structures with their mask queries, each answered as by itself; set from the plan of the request.
    """

    prompt: Prompt
    masks: bool = True
    text_answer: bool = True
    refine: bool = True
    max_tokens: int | None = None
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009 - frozen
    should_stop: Callable[[], bool] | None = None
    any_domain: bool = False
    deadline: float | None = None
    tiles: Tiles | None = None
    names: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def of(
        text: str = "",
        boxes: Rows = (),
        points: Rows = (),
        mask: np.ndarray | None = None,
        *,
        masks: bool = True,
        text_answer: bool = True,
        refine: bool = True,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        should_stop: Callable[[], bool] | None = None,
        any_domain: bool = False,
        deadline: float | None = None,
        tiles: TileArgument | Tiles | None = None,
        closer: bool | None = None,
    ) -> AskRequest:
        """A request of plain arguments.

        Args:
            text: a name ("polyp") or a question; "" if there is at least one reference.
            boxes: any number of ``(x0, y0, x1, y1)`` in pixels of the image.
            points: any number of ``(x, y)`` or ``(x, y, label)``, label 1 = on the target, 0 = not on it.
            mask: ``[H, W]``, a rough mask of the target.
            masks, text_answer, max_tokens, should_stop, deadline: see :class:`AskRequest`.
            refine: whether a crop pass refines a small target, if the model was trained for it (``MimoConfig.crop_scale``): a
                better mask for about the time of another image. A single point with an ambiguous mask is segmented at several
                scales, in the time of three to ten images. A name beside the point gives the kind of object, the point selects
                one of them; without ``refine``, the answer is all that name and point give together.
            temperature, top_k, top_p, seed: see ``SamplingParams``; the default takes the most probable text.
            any_domain: answer about an image that is out of the domain as about any other. Without, such a request is refused;
                with a box, point or mask, the mask is drawn as "referred region" and nothing is named.
            tiles: for small structures in an image much larger than the model's input. The name is asked about overlapping
                tiles, too, in the time of another image per tile. Their masks are stitched into one. "auto": tiles of the
                model's input, where the image is larger than 1.5 times that; else the side of the tiles in pixels, or (side,
                overlap). The text must name one structure, without box, point or mask.
            closer: deprecated name of ``refine``.

        Raises:
            PromptError: an argument that cannot be read, or is outside its range.
        """
        if closer is not None:
            # The caller of ask, not its wrapper, is the third frame.
            warnings.warn("closer= is deprecated, use refine=", DeprecationWarning, stacklevel=3)
            refine = closer
        # Prompt reads any iterable of numbers, and refuses the rest.
        prompt = Prompt(text, cast("Sequence[Sequence[float]]", boxes), cast("Sequence[Sequence[float]]", points), mask)
        sampling = SamplingParams(temperature, top_k, top_p, seed)
        return AskRequest(
            prompt, masks, text_answer, refine, max_tokens, sampling, should_stop, any_domain, deadline,
            None if tiles is None else Tiles.of(tiles),
        )  # fmt: skip

    def validate(self, height: int, width: int, config: MimoConfig) -> None:
        """Check this request against an image of ``height x width`` pixels and a model.

        Args:
            height, width: of the image, in pixels.
            config: of the model.

        Raises:
            PromptError: the request does not fit the image or the model.
            RequestError: neither masks nor a text are wanted.
            DeadlineError: the deadline has passed.
        """
        for name in ("masks", "text_answer", "refine", "any_domain"):
            if not isinstance(value := getattr(self, name), (bool, np.bool_)):
                raise PromptError(f"{name} is {shown(value)}", "Use True or False")
        self.prompt.validate(height, width, config)
        if not (self.masks or self.text_answer):
            raise RequestError("neither masks nor text are asked for", "Leave at least one of them on")
        limit = longest_text(config)
        if self.max_tokens is not None and not (is_whole(self.max_tokens) and 1 <= self.max_tokens <= limit):
            raise PromptError(f"max_tokens is {shown(self.max_tokens)}", f"Use 1 to {limit}")
        self._validate_tiles(height, width, config)
        check_stopping(self.should_stop, self.deadline)

    def _validate_tiles(self, height: int, width: int, config: MimoConfig) -> None:
        if self.tiles is None:
            return
        if not self.masks:
            raise RequestError("tiles have no effect without masks", "Leave one of them out")
        if self.prompt.has_references:
            raise PromptError("tiles are for a name alone", "Leave the tiles out: a box, point or mask gets the crop pass")
        self.tiles.fitted(height, width, config.image_size)


def longest_text(config: MimoConfig) -> int:
    """The model's limit in tokens; ``<bos>`` takes one position."""
    return config.text_decoder.max_length - 1


def takes_arguments_of(
    build: Callable[Arguments, AskRequest],
) -> Callable[[Callable[[Self, AskRequest], Returned]], Callable[Concatenate[Self, Arguments], Returned]]:
    """A decorator for methods that take a request: they get the arguments of ``build``, and its signature."""

    def decorate(method: Callable[[Self, AskRequest], Returned]) -> Callable[Concatenate[Self, Arguments], Returned]:
        @functools.wraps(method)
        def with_arguments(self: Self, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
            return method(self, build(*args, **kwargs))

        of_self, of_build = inspect.signature(method), inspect.signature(build)
        first = next(iter(of_self.parameters.values()))
        signature = of_self.replace(parameters=[first, *of_build.parameters.values()])
        with_arguments.__signature__ = signature  # type: ignore[attr-defined]
        return with_arguments

    return decorate
