"""Conformal calibration on ``val``: contours that hold for a stated share of the masks, presence with a stated miss rate.

The loss of a patient is the share of the patient's cases where the statement fails, so that a patient with many images counts
as one. Conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814) takes the smallest parameter whose mean loss, with
a total failure for the next patient added, is at most the wanted rate. Then the mean loss of a new patient is at most that
rate, if the patient is exchangeable with those of ``val``. docs/explanation/guarantees.md describes what follows from it.
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
from mimo_runtime.postprocessing.contours import WIDEST_OUTER
from mimo_runtime.results.answer import Finding
from mimo_runtime.text.questions import EVERYTHING
from mimo_runtime.utils.atomic import atomic_write_bytes

from ..checkpoint import CONFIG
from .contour_parameters import needed_parameters
from .image_jobs import ONE_PROCESS, Image, ImageJobs, Progress

#: An entry of its own needs this many patients. The parameter of a promise of 90 % exists from 9 patients on. With 20, one
#: patient of 21 counts as a failure: the promise is too cautious by 5 points.
MIN_PATIENTS = 20
#: Lowest scores of the groups of findings that a request points at without a name. Structures of all kinds are mixed there, and
#: the score says which of them the model draws well. Chosen on ``val``: coverage by set in cross-validation by patient.
SCORE_GROUPS = (0.0, 0.65, 0.75, 0.85)
#: Images of a patient that are measured: more say little more about the patient.
IMAGES_PER_PATIENT = 4
#: Largest parameter that a configuration holds: no logit is as far from the threshold.
LARGEST = 100.0


class ContourCase(NamedTuple):
    """The parameters from which on the contours of one mask hold; ``name`` and ``prompt`` as in :class:`ContourCalibration`."""

    name: str
    prompt: str
    patient: str
    inner: float
    outer: float
    #: Of the finding.
    score: float = 1.0


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
        lines += [f"  {_sentence(entry)}" for entry in self.contours]
        lines.append(f"presence below which a structure is excluded, with a miss rate of {100 * self.miss_rate:g} %:")
        lines += [
            f"  {entry.name or 'all structures'}: {entry.absent_below:.3f} ({entry.cases} cases)" for entry in self.presence
        ]
        if self.too_few:
            few = ", ".join(f"{name} ({patients})" for name, patients in self.too_few.items())
            lines.append(f"fewer than {MIN_PATIENTS} patients, so no contours, and absence by all structures: {few}")
        return "\n".join(lines)


def _sentence(entry: ContourCalibration) -> str:
    target = entry.name or f"without a name, score from {entry.min_score:g}"
    parameters = f"inner {entry.inner:.3f}, outer {entry.outer:.3f} ({entry.cases} cases)"
    return f"{entry.prompt}, {target}: {parameters}" + (", too wide to state" if entry.outer > WIDEST_OUTER else "")


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
    names = dict.fromkeys(["", *mimo.config.entities, *(name for data in datasets for name in data.class_names)])
    contours_of_all = tuple(ContourCalibration(name, kind) for name in names for kind in PROMPT_KINDS)
    mimo = mimo.with_config(replace(mimo.config, contours=contours_of_all))
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
    pointed_at = patients.pop("", set())
    chosen = Conformal(
        coverage, miss_rate, calibrate_contours(contours, coverage), calibrate_presence(presences, miss_rate),
        {name: len(own) for name, own in sorted(patients.items()) if len(own) < MIN_PATIENTS}, len(records),
    )  # fmt: skip
    if not chosen.contours:
        count = len(pointed_at.union(*patients.values()))
        what = f"split '{split}' has {count} patients with a target, and contours need {MIN_PATIENTS}"
        raise RequestError(what, "Use more data" if limit is None else "Raise --limit, or use more data")
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
    """The questions about one image: by name, by box, point and mask with and without the name, and the open one.

    A finding without a mask has no contours, and a mask of what is not annotated is no case. A name that the model does not
    know, or that it knows as several structures, is not asked.
    """
    patient = f"{questions.record.set_name}/{questions.record.case or questions.key}"
    shape = questions.height, questions.width

    def contours(name: str, prompt: str, findings: Sequence[Finding], truth: np.ndarray) -> Iterator[ContourCase]:
        for finding in findings:
            if finding.present and finding.logits is not None:
                needed = needed_parameters(finding.mask, truth, finding.logits)
                yield ContourCase(name, prompt, patient, *needed, finding.score)

    wholes = dict[str, np.ndarray]()
    for name, whole, parts in questions.targets():
        wholes[name.casefold()] = whole
        outcome = Outcome.of(questions.ask({"text": name}), *shape)
        # The finding has the name as the model spells it.
        known = outcome.findings[0].phrase if len(outcome.findings) == 1 else ""
        if known:
            yield PresenceCase(known, patient, outcome.presence)
            yield from contours(known, "name", outcome.findings, whole)
        for prompt in ("box", "point", "mask"):
            for number, part in enumerate(parts):
                request = questions.request(prompt, name, part, number)
                for text in dict.fromkeys(("", known)):
                    outcome = Outcome.of(questions.ask({**request, "text": text}), *shape)
                    yield from contours(text, prompt, outcome.findings, part)
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
    """Entries for :attr:`MimoConfig.contours`: for every kind of prompt and structure with at least :data:`MIN_PATIENTS`
    patients, and for each group of scores of what a reference points at without a name."""
    groups: dict[tuple[str, str], list[ContourCase]] = defaultdict(list)
    for case in cases:
        groups[case.prompt, case.name].append(case)
    entries = []
    for prompt, name in sorted(groups, key=lambda key: (PROMPT_KINDS.index(key[0]), key[1])):
        for min_score, own in _score_groups(groups[prompt, name], (0.0,) if name else SCORE_GROUPS):
            patients = [case.patient for case in own]
            inner = smallest_parameter([case.inner for case in own], patients, 1 - coverage)
            outer = smallest_parameter([case.outer for case in own], patients, 1 - coverage)
            entries.append(ContourCalibration(name, prompt, min(inner, LARGEST), min(outer, LARGEST), len(own), min_score))
    return tuple(entries)


def _score_groups(cases: Sequence[ContourCase], lowest: Sequence[float]) -> list[tuple[float, list[ContourCase]]]:
    """The cases by group of scores, lowest first, each with its lowest score and at least :data:`MIN_PATIENTS` patients.

    A group with fewer patients is joined with the one below it, and the last such group with the one above.
    """
    groups, own = list[tuple[float, list[ContourCase]]](), list[ContourCase]()
    high = math.inf
    for low in reversed(lowest):
        own = [*own, *(case for case in cases if low <= case.score < high)]
        high = low
        if len({case.patient for case in own}) >= MIN_PATIENTS:
            groups.insert(0, (low, own))
            own = []
    if own and groups:
        groups[0] = lowest[0], [*groups[0][1], *own]
    return groups


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
