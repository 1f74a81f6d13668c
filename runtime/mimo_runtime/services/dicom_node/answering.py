"""Answers about series that are complete, and writes the objects of the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...clinical.study import ModelIdentity, StudyResult
from ...clinical.writer import INDEX, ObjectOptions, write_into
from ...errors import ImageError, MimoError
from ...pipeline import Mimo
from ...request import AskRequest
from ...utils.atomic import atomic_folder
from ...utils.log import LOGGER
from ..host import ModelHost
from ..logs import failure_fields
from .headers import InstanceHeader, combined, read_instance_header
from .ledger import FAILED, Job, Ledger, ResultObject
from .metrics import NodeMetrics
from .rules import Rule, is_known
from .storage import Storage, content_key

#: Starts of a job that may fail; each end of the process during the work counts as one.
MOST_STARTS, MOST_FAILURES = 25, 3
LOG = LOGGER.getChild("node")


class Answering:
    """Plans and runs jobs.

    Args:
        rules: of the node.
        host: of the model.
        storage: of received objects and results.
        ledger: of the jobs.
        metrics: counts.
        should_stop: ends a running answer; its job stays in the queue.
        pause_s: after a failure; four times as long after the next.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        host: ModelHost,
        storage: Storage,
        ledger: Ledger,
        metrics: NodeMetrics,
        should_stop: Callable[[], bool],
        pause_s: float = 2.0,
    ) -> None:
        self.host, self.storage, self.ledger = host, storage, ledger
        self.use_rules(rules)
        self.metrics, self.should_stop, self.pause_s = metrics, should_stop, pause_s
        self._failures: dict[str, int] = {}

    def use_rules(self, rules: Sequence[Rule]) -> None:
        """Other rules, for studies that are complete from now on; a waiting job of a rule that has changed is planned anew."""
        self._rules = {rule.name: rule for rule in rules}

    def plan(self, study: str) -> int:
        """Note a job for each rule and series of a complete study that fit; returns their number, known ones left out."""
        with self.host.use() as served:
            config = served.mimo.config
        added = 0
        for series, files in self.storage.series(study).items():
            try:
                headers = _headers(files)
                _check_one_patient(headers)
            except (ImageError, OSError) as error:
                LOG.error("a series is left out", extra={"fields": failure_fields(error)})
                continue
            if not is_known(headers[0].modality, config):
                continue
            content = content_key(files)
            asked = set[str]()
            for rule in self._rules.values():
                if rule.fits(headers) and rule.ask not in asked:
                    asked.add(rule.ask)
                    job = _job_key(series, content, rule)
                    added += self.ledger.add(job, study, series, rule.name, content)
        LOG.info("a study is complete", extra={"fields": {"jobs": added}})
        return added

    def run(self, job: Job) -> bool:
        """Answer about a series, and write the objects; False where series or rule has changed and the job is void."""
        rule, files = self._rules.get(job.rule), self.storage.series(job.study).get(job.series, [])
        if rule is None or job.job != _job_key(job.series, content_key(files), rule):
            self.ledger.drop(job.job)
            return False
        if job.starts >= MOST_STARTS or self._failures.get(job.job, 0) >= MOST_FAILURES:
            LOG.error("a series was given up after %d starts", job.starts)
            self.ledger.set_state(job.job, FAILED)
            return True
        self.ledger.start(job.job)
        started = time.monotonic()
        try:
            with self.host.use() as served:
                result = self._answer(served.mimo, rule, files)
            if result is None:
                self.ledger.take_back_start(job.job)
                return True
            objects = self._write(job.job, result, rule)
        except ImageError as error:  # no image of the series can be read: another start would not help
            LOG.error("a series cannot be answered", extra={"fields": failure_fields(error)})
            self.ledger.set_state(job.job, FAILED)
        except Exception as error:
            self._failures[job.job] = self._failures.get(job.job, 0) + 1
            self.ledger.postpone(job.job, time.time() + self.pause_s * 4 ** self._failures[job.job])
            LOG.error("a series was not answered", extra={"fields": failure_fields(error)})
        else:
            self.ledger.set_answered(job.job, objects)
            self.metrics.observe_answer(time.monotonic() - started)
        return True

    def _answer(self, mimo: Mimo, rule: Rule, files: Sequence[Path]) -> StudyResult | None:
        """The result about a series; None where it was stopped."""
        request = AskRequest.of(rule.ask, should_stop=self.should_stop)
        try:
            answer = mimo.open_series(files).ask_request(request)
        except MimoError:
            if self.should_stop():
                return None
            raise
        if self.should_stop() and not answer.is_complete:
            return None
        return StudyResult.of_series(request.prompt, answer, ModelIdentity.of(mimo.info))

    def _write(self, job: str, result: StudyResult, rule: Rule) -> list[ResultObject]:
        """Write the objects of a result. One without structures has a structured report, whatever the rule says."""
        formats = tuple(dict.fromkeys((*rule.write, *(() if result.structures else ("sr",)))))
        with atomic_folder(self.storage.results / job, overwrite=True) as target:
            write_into(result, target, formats, ObjectOptions(), with_study=False)
            index = json.loads((target / INDEX).read_text("utf-8"))
        if index["left_out"]:
            LOG.info("formats are left out", extra={"fields": {"formats": sorted(index["left_out"])}})
        self.storage.add_result(job)
        objects = []
        for file in sorted((self.storage.results / job).glob("*.dcm")):
            with file.open("rb") as stream:
                header = read_instance_header(stream)
            objects.append(ResultObject(file.name, header.sop_class, header.instance))
        return objects


def _job_key(series: str, content: str, rule: Rule) -> str:
    """What a job is known by. The bundle is no part of it: another one does not answer again."""
    return combined([series, content, rule.key()])


def _headers(files: Sequence[Path]) -> list[InstanceHeader]:
    """Of a series."""
    headers = []
    for file in files:
        with file.open("rb") as stream:
            headers.append(read_instance_header(stream))
    return headers


def _check_one_patient(headers: Sequence[InstanceHeader]) -> None:
    """Raises ImageError for a series of several patients: the result would belong to one of them."""
    if len({header.patient for header in headers}) > 1:
        raise ImageError("the series has images of several patients", "Correct it in the archive, and send it again")
