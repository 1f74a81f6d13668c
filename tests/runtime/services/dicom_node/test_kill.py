"""A node that is killed at any moment: what it confirmed is answered, and every result is stored exactly once."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from node_cases import Archive, NodeProcess, Orthanc, send, study
from ports import free_port
from pydicom.dataset import Dataset
from waiting import PATIENCE_S, wait_for


class Killer:
    """Kills a node at random moments, and starts it again on the same folder and port.

    The quiet time is longer than a start takes, so that a study that a kill cuts in two is answered once.
    """

    def __init__(self, bundle: Path, data: Path, orthanc: Orthanc, seed: int) -> None:
        self.arguments = (bundle, data, orthanc.peer, "--commit", "--ask", "liver", "--quiet", "2", "--log-level", "warning")
        self.port, self.random = orthanc.node_port, random.Random(seed)
        self.kills = 0
        self.node = self.start()

    def start(self) -> NodeProcess:
        return NodeProcess(*self.arguments, port=self.port)

    def kill_within(self, seconds: float) -> None:
        time.sleep(self.random.uniform(0.2, seconds))
        self.node.kill()
        self.kills += 1
        self.node = self.start()


def send_until_taken(port: int, objects: list[Dataset]) -> None:
    """As a PACS does: objects without a success are sent again."""
    left = list(objects)
    while left:
        try:
            statuses = send(port, left)
        except (ValueError, RuntimeError):  # the association ended between two objects
            continue
        left = [data for data, status in zip(left, statuses) if status != 0]
        if left:
            time.sleep(0.1)


def killed(bundle: Path, data: Path, orthanc: Orthanc, studies: int, times: int, within_s: float) -> list[list[Dataset]]:
    """Send studies in as many parts as there are kills, one within the first seconds of each part, so that every kill meets
    studies that arrive, are answered, or are sent; returns the studies once all their results are delivered."""
    killer = Killer(bundle, data, orthanc, seed=studies)
    sent = [study(1 + k % 2) for k in range(studies)]
    thread = threading.Thread()
    try:
        for part in range(times):
            thread = threading.Thread(target=killer.kill_within, args=(within_s,))
            thread.start()
            for objects in sent[part::times]:
                send_until_taken(killer.port, objects)
            thread.join()

        def delivered() -> bool:
            with closing(sqlite3.connect(data / "ledger.sqlite", timeout=30)) as ledger:
                return ledger.execute("SELECT count(*) FROM jobs WHERE state='delivered'").fetchone()[0] >= studies

        wait_for(delivered, PATIENCE_S + 5 * studies)
        assert killer.node.stop() == 0 and killer.kills == times
    finally:
        if thread.is_alive():
            thread.join()
        killer.node.kill()
    return sent


def test_an_image_that_was_confirmed_survives_the_end_of_the_process(bundle_folder: Path, tmp_path: Path, archive: Archive):
    node = NodeProcess(bundle_folder, tmp_path / "data", "AWAY@127.0.0.1:9", "--ask", "liver", "--quiet", "60")
    sent = study(2)
    assert send(node.port, sent) == [0, 0]
    node.kill()
    receiver = f"ARCHIVE@127.0.0.1:{archive.peer.port}"
    again = NodeProcess(bundle_folder, tmp_path / "data", receiver, "--ask", "liver", "--quiet", "0.2")
    wait_for(lambda: len(archive.received) == 2)
    assert again.stop() == 0
    assert {data.StudyInstanceUID for data in archive.received} == {sent[0].StudyInstanceUID}


def check_orthanc(orthanc: Orthanc, sent: list[list[Dataset]]) -> None:
    """Every study has one segmentation and one report."""
    assert [len(orthanc.instances(modality)) for modality in ("SEG", "SR")] == [len(sent)] * 2
    for modality in ("SEG", "SR"):
        found = [orthanc.get(f"/instances/{one['ID']}/study") for one in orthanc.instances(modality)]
        uids = sorted(one["MainDicomTags"]["StudyInstanceUID"] for one in found)
        assert uids == sorted(str(objects[0].StudyInstanceUID) for objects in sent)


@pytest.mark.slow
def test_a_node_killed_ten_times_during_a_hundred_studies_stores_every_result_once(bundle_folder: Path, tmp_path: Path):
    studies = int(os.environ.get("MIMO_NODE_STUDIES", "100"))
    orthanc = Orthanc(tmp_path, free_port())
    try:
        sent = killed(bundle_folder, tmp_path / "data", orthanc, studies, 10, 4.0)
        check_orthanc(orthanc, sent)
    finally:
        orthanc.close()


def test_a_node_killed_during_studies_stores_every_result_once(bundle_folder: Path, tmp_path: Path):
    orthanc = Orthanc(tmp_path, free_port())
    try:
        sent = killed(bundle_folder, tmp_path / "data", orthanc, 3, 2, 3.0)
        check_orthanc(orthanc, sent)
    finally:
        orthanc.close()
