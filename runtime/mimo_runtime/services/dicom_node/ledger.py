"""What has happened to each series and result: a table on disk that survives the end of the process at any moment.

A job is a rule applied to the objects of a series. Its states:

    waiting      to be answered
    answered     its objects are written, and to be sent
    sent         all its objects are sent, and storage commitment is awaited
    delivered    the receiver has them
    undelivered  the receiver did not take them in time
    failed       it cannot be answered
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import MimoError

WAITING, ANSWERED, SENT, DELIVERED, UNDELIVERED, FAILED = STATES = (
    "waiting", "answered", "sent", "delivered", "undelivered", "failed",
)  # fmt: skip
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs(
    job TEXT PRIMARY KEY, study TEXT NOT NULL, series TEXT NOT NULL, rule TEXT NOT NULL, content TEXT NOT NULL,
    state TEXT NOT NULL, starts INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, answered REAL NOT NULL DEFAULT 0, changed REAL NOT NULL,
    transaction_uid TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs(state, next_try);
CREATE TABLE IF NOT EXISTS results(
    job TEXT NOT NULL, file TEXT NOT NULL, sop_class TEXT NOT NULL, instance TEXT NOT NULL,
    is_sent INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(job, file));
CREATE INDEX IF NOT EXISTS results_by_instance ON results(instance);
CREATE TABLE IF NOT EXISTS reports(
    transaction_uid TEXT PRIMARY KEY, aet TEXT NOT NULL, instances TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, asked REAL NOT NULL);
"""
_COLUMNS = "job, study, series, rule, content, state, starts, attempts, next_try, answered, transaction_uid"


@dataclass(frozen=True)
class Job:
    """A rule applied to a series; times are those of ``time.time()``.

    Args:
        job: its key.
        study, series: keys of the folders with the objects.
        rule: its name.
        content: key of the set of objects.
        state: of :data:`STATES`.
        starts: how often it was begun.
        attempts: to answer, and later to deliver, that failed.
        next_try: when it may be answered or delivered.
        answered: when its objects were written.
        transaction_uid: of the last request for storage commitment.
    """

    job: str
    study: str
    series: str
    rule: str
    content: str
    state: str
    starts: int
    attempts: int
    next_try: float
    answered: float
    transaction_uid: str


@dataclass(frozen=True)
class ResultObject:
    """A DICOM object of a result.

    Args:
        file: its name in the folder of the job.
        sop_class, instance: its UIDs.
        is_sent: whether the receiver took it.
    """

    file: str
    sop_class: str
    instance: str
    is_sent: bool = False


@dataclass(frozen=True)
class Report:
    """A report about storage commitment that is owed to another node.

    Args:
        transaction_uid: of its request.
        aet: of the node.
        instances: ``(SOP class, SOP instance)`` of the request.
        attempts: to send it, that failed.
        asked: when.
    """

    transaction_uid: str
    aet: str
    instances: tuple[tuple[str, str], ...]
    attempts: int
    asked: float


class Ledger:
    """The table. Threads may share it.

    Args:
        path: of the file.

    Raises:
        MimoError: the file is damaged, or of another program.
    """

    def __init__(self, path: Path) -> None:
        self._mutex = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            remedy = "Move it away; studies that are on disk are answered again"
            raise MimoError(f"the ledger of the data folder cannot be used ({type(error).__name__})", remedy) from None

    def close(self) -> None:
        """Write everything back."""
        with self._mutex:
            self._db.close()

    def _run(self, statement: str, values: Sequence[object] = ()) -> int:
        """Run one statement; returns the number of changed rows."""
        with self._mutex:
            return self._db.execute(statement, values).rowcount

    def _jobs(self, where: str, values: Sequence[object]) -> list[Job]:
        with self._mutex:
            return [Job(*row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE {where}", values)]

    # -- answering -------------------------------------------------------------------------------------------------------

    def add(self, job: str, study: str, series: str, rule: str, content: str) -> bool:
        """Note a job; False where it is known."""
        values = (job, study, series, rule, content, WAITING, time.time())
        statement = "INSERT OR IGNORE INTO jobs(job, study, series, rule, content, state, changed) VALUES(?,?,?,?,?,?,?)"
        return self._run(statement, values) == 1

    def next_waiting(self) -> Job | None:
        """The job that waits longest and may be begun; one that was begun comes after those that were not."""
        where = "state=? AND next_try<=? ORDER BY starts, changed, rowid LIMIT 1"
        jobs = self._jobs(where, (WAITING, time.time()))
        return jobs[0] if jobs else None

    def start(self, job: str) -> None:
        """Count a start, before the work."""
        self._run("UPDATE jobs SET starts=starts+1 WHERE job=?", (job,))

    def take_back_start(self, job: str) -> None:
        """The work was stopped and not done."""
        self._run("UPDATE jobs SET starts=max(0, starts-1) WHERE job=?", (job,))

    def set_state(self, job: str, state: str) -> None:
        """A job has another state."""
        self._run("UPDATE jobs SET state=?, changed=? WHERE job=?", (state, time.time(), job))

    def drop(self, job: str) -> None:
        """Forget a job."""
        with self._mutex, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM results WHERE job=?", (job,))
            self._db.execute("DELETE FROM jobs WHERE job=?", (job,))

    def set_answered(self, job: str, objects: Iterable[ResultObject]) -> None:
        """A job has its objects, all of them in one step."""
        rows = [(job, one.file, one.sop_class, one.instance) for one in objects]
        now = time.time()
        with self._mutex, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM results WHERE job=?", (job,))
            self._db.executemany("INSERT INTO results(job, file, sop_class, instance) VALUES(?,?,?,?)", rows)
            statement = "UPDATE jobs SET state=?, answered=?, next_try=0, attempts=0, changed=? WHERE job=?"
            self._db.execute(statement, (ANSWERED, now, now, job))

    def is_waiting(self, study: str) -> bool:
        """Whether a job of a study is to be answered."""
        return bool(self._jobs("study=? AND state=? LIMIT 1", (study, WAITING)))

    # -- delivery --------------------------------------------------------------------------------------------------------

    def to_deliver(self) -> list[Job]:
        """Jobs whose objects are to be sent now, or whose storage commitment is to be requested, oldest first."""
        where = "state IN (?,?) AND next_try<=? ORDER BY answered, rowid"
        return self._jobs(where, (ANSWERED, SENT, time.time()))

    def undelivered_results(self) -> list[str]:
        """Keys of the jobs whose objects are written and not delivered, given up ones left out."""
        return [one.job for one in self._jobs("state IN (?,?)", (ANSWERED, SENT))]

    def next_delivery(self) -> float | None:
        """When the next job or report is to be sent."""
        with self._mutex:
            statement = (
                "SELECT min(t) FROM (SELECT min(next_try) AS t FROM jobs WHERE state IN (?,?) "
                "UNION ALL SELECT min(next_try) FROM reports)"
            )
            row = self._db.execute(statement, (ANSWERED, SENT)).fetchone()
        return None if row is None or row[0] is None else float(row[0])

    def objects(self, job: str) -> list[ResultObject]:
        """The objects of a job, in the order of their files."""
        with self._mutex:
            statement = "SELECT file, sop_class, instance, is_sent FROM results WHERE job=? ORDER BY rowid"
            rows = self._db.execute(statement, (job,)).fetchall()
        return [ResultObject(str(file), str(sop), str(uid), bool(sent)) for file, sop, uid, sent in rows]

    def is_result(self, instance: str) -> bool:
        """Whether an object with this UID is one of the results."""
        with self._mutex:
            return self._db.execute("SELECT 1 FROM results WHERE instance=? LIMIT 1", (instance,)).fetchone() is not None

    def set_sent(self, job: str, file: str) -> None:
        """The receiver took an object."""
        self._run("UPDATE results SET is_sent=1 WHERE job=? AND file=?", (job, file))

    def postpone(self, job: str, next_try: float) -> None:
        """An attempt to answer, or to deliver, failed."""
        self._run("UPDATE jobs SET attempts=attempts+1, next_try=? WHERE job=?", (next_try, job))

    def set_requested(self, job: str, transaction_uid: str, until: float) -> bool:
        """Storage commitment is about to be requested, and awaited until a moment; False where the receiver has the objects."""
        statement = "UPDATE jobs SET state=?, transaction_uid=?, next_try=?, changed=? WHERE job=? AND state IN (?,?)"
        return self._run(statement, (SENT, transaction_uid, until, time.time(), job, ANSWERED, SENT)) == 1

    def job_of(self, transaction_uid: str) -> Job | None:
        """The job whose storage commitment was requested last with this UID."""
        jobs = self._jobs("transaction_uid=? AND transaction_uid!='' AND state=?", (transaction_uid, SENT))
        return jobs[0] if jobs else None

    def set_unsent(self, job: str, instances: Iterable[str], next_try: float) -> None:
        """The receiver does not have some objects: they are sent again."""
        with self._mutex, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            rows = [(job, uid) for uid in instances]
            self._db.executemany("UPDATE results SET is_sent=0 WHERE job=? AND instance=?", rows)
            statement = "UPDATE jobs SET state=?, attempts=attempts+1, next_try=? WHERE job=?"
            self._db.execute(statement, (ANSWERED, next_try, job))

    def request_again(self) -> None:
        """Storage commitment that is awaited is requested at once: reports may have come while no node ran."""
        self._run("UPDATE jobs SET next_try=0 WHERE state=?", (SENT,))

    def retry_undelivered(self) -> list[str]:
        """Send again what was given up; returns the keys of the jobs."""
        jobs = [one.job for one in self._jobs("state=?", (UNDELIVERED,))]
        for job in jobs:
            statement = "UPDATE jobs SET state=?, attempts=0, next_try=0, answered=?, changed=? WHERE job=?"
            self._run(statement, (ANSWERED, time.time(), time.time(), job))
        return jobs

    # -- reports that are owed ---------------------------------------------------------------------------------------------

    def owe_report(self, transaction_uid: str, aet: str, instances: Sequence[tuple[str, str]]) -> None:
        """Another node asks for storage commitment."""
        statement = "INSERT OR IGNORE INTO reports(transaction_uid, aet, instances, asked) VALUES(?,?,?,?)"
        self._run(statement, (transaction_uid, aet, json.dumps(instances), time.time()))

    def reports(self) -> list[Report]:
        """Those that are to be sent now."""
        with self._mutex:
            statement = "SELECT transaction_uid, aet, instances, attempts, asked FROM reports WHERE next_try<=? ORDER BY asked"
            rows = self._db.execute(statement, (time.time(),)).fetchall()
        return [Report(uid, aet, tuple((a, b) for a, b in json.loads(text)), n, asked) for uid, aet, text, n, asked in rows]

    def postpone_report(self, transaction_uid: str, next_try: float) -> None:
        """An attempt to send a report failed."""
        self._run("UPDATE reports SET attempts=attempts+1, next_try=? WHERE transaction_uid=?", (next_try, transaction_uid))

    def drop_report(self, transaction_uid: str) -> None:
        """A report is sent, or given up."""
        self._run("DELETE FROM reports WHERE transaction_uid=?", (transaction_uid,))

    # -- overview --------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Jobs in each state."""
        with self._mutex:
            counted = dict(self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return {state: int(counted.get(state, 0)) for state in STATES}

    def ended_before(self, moment: float) -> list[Job]:
        """Jobs that ended before a moment."""
        return self._jobs("state IN (?,?) AND changed<?", (DELIVERED, FAILED, moment))
