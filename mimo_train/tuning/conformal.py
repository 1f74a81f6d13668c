"""Conformal calibration on ``val``: contours that hold for a stated share of the masks, presence with a stated miss rate.

The loss of a patient is the share of the patient's cases where the statement fails, so that a patient with many images counts
as one. Conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814) takes the smallest parameter whose mean loss, with
a total failure for the next patient added, is at most the wanted rate: then the loss of a new patient, exchangeable with those
of ``val``, is at most that rate in the mean. docs/explanation/guarantees.md describes what follows from it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record, check_records, for_model
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation.questions import ImageQuestions, Outcome, chosen_records, seeded_rng
from mimo_runtime.model.calibrated import PROMPT_KINDS, ContourCalibration, PresenceCalibration
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.pipeline import Mimo
from mimo_runtime.postprocessing.contours import INNER_SHARE, OUTER_SHARE, REACH, WIDEST_OUTER, MaskLogits
from mimo_runtime.postprocessing.masks import box_of_mask
from mimo_runtime.results.answer import Finding
from mimo_runtime.text.questions import EVERYTHING
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..checkpoint import CONFIG
from .image_jobs import ONE_PROCESS, Image, ImageJobs, Progress

#: An entry of its own needs this many patients. The parameter of a promise of 90 % exists from 9 patients on; with 20, one
#: patient of 21 counts as a failure, which makes the promise too cautious by 5 points.
MIN_PATIENTS = 20
#: Images of a patient that are measured: more say little more about the patient.
IMAGES_PER_PATIENT = 4
#: Largest parameter that a configuration holds: no logit is as far from the threshold.
LARGEST = 100.0
#: Parameters are rounded up to this many decimals.
_DECIMALS = 4
#: Logits of a window of the image differ from those of the whole image by less.
_LOGIT_ERROR = 1e-5


class ContourCase(NamedTuple):
    """The parameters from which on the contours of one mask hold; ``prompt`` as in :class:`ContourCalibration`."""

    name: str
    prompt: str
    patient: str
    inner: float
    outer: float


class PresenceCase(NamedTuple):
    """The presence of a structure that is in the image."""

    name: str
    patient: str
    presence: float


class ConformalReport(TypedDict):
    """JSON of :class:`Conformal`."""

    coverage: float
    miss_rate: float
    contours: list[dict[str, object]]
    presence_calibration: list[dict[str, object]]
    too_few: dict[str, int]
    images: int


@dataclass(frozen=True)
class Conformal:
    """What was chosen.

    Attributes:
        too_few: patients of every structure with fewer than an entry of its own needs.
        images: measured ones.
    """

    coverage: float
    miss_rate: float
    contours: tuple[ContourCalibration, ...]
    presence: tuple[PresenceCalibration, ...]
    too_few: dict[str, int]
    images: int

    def to_dict(self) -> ConformalReport:
        """For JSON."""
        return {
            "coverage": self.coverage,
            "miss_rate": self.miss_rate,
            "contours": [asdict(entry) for entry in self.contours],
            "presence_calibration": [asdict(entry) for entry in self.presence],
            "too_few": self.too_few,
            "images": self.images,
        }

    def sentences(self) -> str:
        """For a person."""
        lines = [f"contours that hold for {100 * self.coverage:g} % of the masks, from {self.images} images:"]
        lines += [
            f"  {entry.prompt}, {entry.name or 'all structures'}: inner {entry.inner:.3f}, outer {entry.outer:.3f} "
            f"({entry.cases} cases)" + (", too wide to state" if entry.outer > WIDEST_OUTER else "")
            for entry in self.contours
        ]
        lines.append(f"presence below which a structure is excluded, with a miss rate of {100 * self.miss_rate:g} %:")
        lines += [
            f"  {entry.name or 'all structures'}: {entry.absent_below:.3f} ({entry.cases} cases)" for entry in self.presence
        ]
        if self.too_few:
            few = ", ".join(f"{name} ({patients})" for name, patients in self.too_few.items())
            lines.append(f"fewer than {MIN_PATIENTS} patients, so the entry for all structures: {few}")
        return "\n".join(lines)


def calibrate(
    checkpoint: Path,
    mimo: Mimo,
    datasets: Sequence[Dataset],
    split: str,
    *,
    coverage: float = 0.9,
    miss_rate: float = 0.05,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    jobs: ImageJobs = ONE_PROCESS,
) -> Conformal:
    """Choose contours and the presence of exclusion on ``split``, and store them in the checkpoint's ``config.json``.

    The thresholds and the crop pass of ``mimo`` must be final, because contours belong to the masks as they are delivered.
    ``mimo`` itself is not changed.

    Args:
        coverage: share of the masks for which each contour holds.
        miss_rate: share of the present structures that are excluded.
        limit: at most this many images per set, drawn with ``seed``.
        progress: called with (images done, images in all).
        jobs: how processes share the images.

    Raises:
        RequestError: too few patients, an empty split, or an image that cannot be read.
    """
    datasets = for_model(datasets, mimo)
    # Findings keep their logits only where they have contours.
    mimo = mimo.with_config(replace(mimo.config, contours=tuple(ContourCalibration("", kind) for kind in PROMPT_KINDS)))
    records = [
        (data, record) for data in datasets for record in few_per_patient(chosen_records(data, split, limit, seed), seed)
    ]
    check_records(record for _, record in records)
    contours, presences = list[ContourCase](), list[PresenceCase]()
    show = None if progress is None else lambda done: progress(done, len(records))
    for case in chain.from_iterable(jobs.run(mimo, _CasesOf(seed), records, show)):
        if isinstance(case, ContourCase):
            contours.append(case)
        else:
            presences.append(case)
    patients: dict[str, set[str]] = defaultdict(set)
    for case in (*presences, *contours):
        patients[case.name].add(case.patient)
    chosen = Conformal(
        coverage, miss_rate, calibrate_contours(contours, coverage), calibrate_presence(presences, miss_rate),
        {name: len(own) for name, own in sorted(patients.items()) if len(own) < MIN_PATIENTS}, len(records),
    )  # fmt: skip
    if not chosen.contours:
        count = len(set().union(*patients.values()))
        raise RequestError(f"split '{split}' has {count} patients with a target, not {MIN_PATIENTS}", "Use more data")
    _store(Path(checkpoint), mimo.config, chosen)
    return chosen


@dataclass(frozen=True)
class _CasesOf:
    """The cases of one image, for :class:`ImageJobs`."""

    seed: int

    def __call__(self, mimo: Mimo, image: Image) -> list[ContourCase | PresenceCase]:
        return list(cases_of(ImageQuestions(mimo, *image, self.seed)))


def few_per_patient(records: Sequence[Record], seed: int) -> list[Record]:
    """At most :data:`IMAGES_PER_PATIENT` records of each case, drawn with ``seed``, in the order of ``records``."""
    of: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        of[record.case or str(index)].append(index)
    kept: set[int] = set()
    for case, indices in of.items():
        kept.update(seeded_rng(seed, case, "patient").permutation(indices)[:IMAGES_PER_PATIENT].tolist())
    return [records[index] for index in sorted(kept)]


def cases_of(questions: ImageQuestions) -> Iterator[ContourCase | PresenceCase]:
    """The questions about one image: by name, box, point and mask about every target, and the open one.

    A finding without a mask has no contours, and a mask of what is not annotated is no case.
    """
    patient = f"{questions.record.set_name}/{questions.record.case or questions.key}"
    shape = questions.height, questions.width

    def contours(name: str, prompt: str, findings: Sequence[Finding], truth: np.ndarray) -> Iterator[ContourCase]:
        for finding in findings:
            if finding.present and finding.logits is not None:
                yield ContourCase(name, prompt, patient, *needed_parameters(finding.mask, truth, finding.logits))

    wholes = dict[str, np.ndarray]()
    for name, whole, parts in questions.targets():
        wholes[name.casefold()] = whole
        outcome = Outcome.of(questions.ask({"text": name}), *shape)
        if outcome.findings:  # none where the model does not know the name
            yield PresenceCase(name, patient, outcome.presence)
        yield from contours(name, "name", outcome.findings, whole)
        for prompt in ("box", "point", "mask"):
            for number, part in enumerate(parts):
                outcome = Outcome.of(questions.ask(questions.request(prompt, name, part, number)), *shape)
                yield from contours(name, prompt, outcome.findings, part)
    if wholes:
        for finding in questions.ask({"text": EVERYTHING}).findings:
            truth = wholes.get(finding.phrase.casefold())
            if truth is not None:
                yield from contours(finding.phrase, "name", [finding], truth)


def _store(checkpoint: Path, config: MimoConfig, chosen: Conformal) -> None:
    config = replace(
        config,
        contours=chosen.contours,
        coverage=chosen.coverage,
        presence_calibration=chosen.presence,
        miss_rate=chosen.miss_rate,
    )
    atomic_write_bytes(checkpoint / CONFIG, (json.dumps(config.to_dict(), indent=2) + "\n").encode())


def smallest_parameter(needed: Sequence[float], patients: Sequence[str], rate: float) -> float:
    """The smallest parameter at which the statement fails in at most ``rate``, corrected for the number of patients.

    Args:
        needed: parameter from which on each case holds, ``[N]``.
        patients: of each case, ``[N]``.
        rate: of failures, between 0 and 1.

    Returns:
        Infinity where there are too few patients for any.
    """
    cases_of: dict[str, int] = defaultdict(int)
    for patient in patients:
        cases_of[patient] += 1
    allowed = rate * (len(cases_of) + 1) - 1
    failures, smallest = 0.0, math.inf
    weights = [1 / cases_of[patient] for patient in patients]
    order = np.argsort(-np.asarray(needed, float), kind="stable")
    if allowed < -1e-9:
        return math.inf
    # From the largest on: a parameter just below a needed one fails for that case and for all before it.
    for index in order:
        failures += weights[index]
        if failures > allowed + 1e-9:
            return float(needed[index])
        smallest = 0.0
    return smallest


def calibrate_contours(cases: Iterable[ContourCase], coverage: float) -> tuple[ContourCalibration, ...]:
    """Entries for :attr:`MimoConfig.contours`: per kind of prompt, one of all structures, and one of every structure with at
    least :data:`MIN_PATIENTS` patients. A kind of prompt with fewer patients in all has no entry."""
    groups: dict[tuple[str, str], list[ContourCase]] = defaultdict(list)
    for case in cases:
        groups[case.prompt, ""].append(case)
        groups[case.prompt, case.name].append(case)
    entries = []
    for prompt, name in sorted(groups, key=lambda key: (PROMPT_KINDS.index(key[0]), key[1])):
        own = groups[prompt, name]
        patients = [case.patient for case in own]
        if len(set(patients)) < MIN_PATIENTS:
            continue
        inner = smallest_parameter([case.inner for case in own], patients, 1 - coverage)
        outer = smallest_parameter([case.outer for case in own], patients, 1 - coverage)
        entries.append(ContourCalibration(name, prompt, min(inner, LARGEST), min(outer, LARGEST), len(own)))
    return tuple(entries)


def calibrate_presence(cases: Iterable[PresenceCase], miss_rate: float) -> tuple[PresenceCalibration, ...]:
    """Entries for :attr:`MimoConfig.presence_calibration`, by structure as in :func:`calibrate_contours`."""
    groups: dict[str, list[PresenceCase]] = defaultdict(list)
    for case in cases:
        groups[""].append(case)
        groups[case.name].append(case)
    entries = []
    for name in sorted(groups):
        own = groups[name]
        patients = [case.patient for case in own]
        if len(set(patients)) < MIN_PATIENTS:
            continue
        # Absent below: a case fails where its presence is lower, so minus the presence is the parameter.
        below = -smallest_parameter([-case.presence for case in own], patients, miss_rate)
        entries.append(PresenceCalibration(name, math.floor(max(below, 0.0) * 1e6) / 1e6, len(own)))
    return tuple(entries)


def needed_parameters(mask: np.ndarray, truth: np.ndarray, logits: MaskLogits) -> tuple[float, float]:
    """The smallest parameters from which on the inner and the outer contour of a mask hold.

    Args:
        mask: bool ``[H, W]``, not empty.
        truth: bool ``[H, W]``, not empty.
        logits: of the mask.

    Returns:
        ``(inner, outer)``, for every parameter at least as large, too: a higher threshold may take true pixels first, so that
        an inner contour that held holds no longer.
    """
    values = logits.above_threshold()
    return _inner_parameter(values[mask], truth[mask]), _outer_parameter(values, mask, truth)


def _outer_parameter(values: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> float:
    """Where the contour contains :data:`OUTER_SHARE` of the truth."""
    # The pixel of the mask that is nearest to a true one lies in the box around both.
    box = box_of_mask(mask | truth)
    assert box is not None
    window = np.s_[box[1] : box[3], box[0] : box[2]]
    distances = np.sqrt(squared_distances(mask[window])[truth[window]])
    reached = distances / (REACH * math.sqrt(np.count_nonzero(mask)))
    needed = np.sort(np.where(mask[truth], 0.0, np.maximum(reached, -values[truth].astype(np.float64))))
    largest = needed[math.ceil(OUTER_SHARE * len(needed) - 1e-9) - 1]
    return math.ceil((largest + _LOGIT_ERROR) * 10**_DECIMALS) / 10**_DECIMALS if largest else 0.0


def _inner_parameter(values: np.ndarray, is_true: np.ndarray) -> float:
    """Where :data:`INNER_SHARE` of the contour is true, or nothing is left of it.

    Args:
        values: logits above the threshold of the mask's pixels, ``[N]``.
        is_true: of the same pixels, bool ``[N]``.
    """
    order = np.argsort(-values, kind="stable")
    ranked = values[order].astype(np.float64)
    wrong, count = np.cumsum(~is_true[order]), np.arange(1, len(order) + 1)
    # A threshold keeps all pixels of one value, or none.
    fails = np.append(ranked[1:] != ranked[:-1], True) & (wrong > (1 - INNER_SHARE) * count + 1e-9)
    if not fails.any():
        return 0.0
    # Just above the highest threshold that fails.
    return max(0.0, (math.floor((ranked[np.argmax(fails)] + _LOGIT_ERROR) * 10**_DECIMALS) + 1) / 10**_DECIMALS)


def squared_distances(mask: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of every pixel to the nearest pixel of ``mask``, int64 ``[H, W]``; 0 inside. Exact.

    Without a pixel in ``mask`` every distance is that of a pixel far outside.
    """
    height, width = mask.shape
    far, ramp = np.int64(2 * (height + width)), np.arange(width, dtype=np.int64)
    before = ramp - np.maximum.accumulate(np.where(mask, ramp, -far), axis=1)
    after = np.minimum.accumulate(np.where(mask, ramp, far + width)[:, ::-1], axis=1)[:, ::-1] - ramp
    in_row = np.minimum(before, after) ** 2
    result = in_row.copy()
    for step in range(1, height):
        if step * step >= result.max():
            break
        np.minimum(result[step:], in_row[:-step] + step * step, out=result[step:])
        np.minimum(result[:-step], in_row[step:] + step * step, out=result[:-step])
    return result
