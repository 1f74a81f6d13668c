"""The core that services share: the model host, the store of images, the queue."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from pathlib import Path

import fakes
import onnx_bundle
import pytest
import served
from waiting import PATIENCE_S

from mimo_runtime.errors import BundleError, BusyError, CancelledError, DeadlineError, RequestError, VerificationError
from mimo_runtime.services import jobs as jobs_module
from mimo_runtime.services.host import HostOptions, ModelHost, NotReadyError
from mimo_runtime.services.jobs import ClosingError, Job, Jobs
from mimo_runtime.services.settings import ApiKeys, ServerSettings
from mimo_runtime.services.store import ByteLru, ImageStore, MissingImageError, Reading


def test_the_least_recently_used_values_go_first_and_all_after_their_time():
    now = [0.0]
    values: ByteLru[str] = ByteLru(100, 10, lambda: now[0])
    assert values.put("a", "A", 40) and values.put("b", "B", 40) and values.get("a") == "A"
    assert values.put("c", "C", 40) and values.get("b") is None and values.get("a") == "A" and values.nbytes == 80
    assert not values.put("d", "D", 101) and values.nbytes == 80
    assert values.put("a", "AA", 60) and (values.nbytes, len(values)) == (100, 2)
    now[0] = 9
    assert values.get("c") == "C"
    now[0] = 11
    values.expire()
    assert values.get("a") is None and values.get("c") == "C" and values.nbytes == 40


def test_an_image_is_encoded_once_for_each_reading_and_model():
    store, host = ImageStore(1 << 24, 100), served.host_of()
    host.start()
    image = store.put(served.png())
    assert store.put(served.png()) is image and store.get(image.id) is image
    with host.use() as model:
        first = store.open(model, image, Reading(), Job())
        assert store.open(model, image, Reading(), Job()) is first
        assert store.open(model, image, Reading(modality="ct"), Job()) is not first
        assert fakes.calls(model.mimo)["vision_encoder"] == 1  # the pixels are the same
    host.swap()
    with host.use() as other:
        store.serve(other.generation)
        assert len(store.scans) == 0 and store.open(other, image, Reading(), Job()) is not first
    assert store.remove(image.id) and not store.remove(image.id) and store.nbytes == 0
    with pytest.raises(MissingImageError):
        store.get(image.id)
    host.close()


def test_a_replaced_model_ends_its_answers_before_it_is_closed():
    models = []

    def make():
        models.append(fakes.fake_mimo())
        return models[-1]

    host = served.host_of(make)
    with pytest.raises(NotReadyError), host.use():
        pass
    host.start()
    with host.use() as old:
        assert host.swap() == 2 and host.generation == 2
        assert old.mimo.open(fakes.picture()).ask("polyp").findings
        with host.use() as new:
            assert new.mimo is models[1]
    assert models[0].engines["fusion"].closed and not models[1].engines["fusion"].closed
    host.close()
    assert models[1].engines["fusion"].closed


def test_a_bundle_is_served_after_its_golden_samples_passed(bundle_folder: Path, tmp_path: Path):
    host = ModelHost(bundle_folder, HostOptions(bundles=bundle_folder.parent))
    host.start()
    with host.use() as model:
        assert (model.samples, model.generation) == (2, 1)
    wrong = onnx_bundle.write_bundle(tmp_path / "wrong")
    expected = wrong / "golden/00/expected.json"
    expected.write_text(expected.read_text("utf-8").replace('"polyp"', '"liver"'), "utf-8")
    onnx_bundle.reseal(wrong)
    with pytest.raises(VerificationError, match="1 of 2 golden samples differ"):
        host.swap(wrong)
    (wrong / "graphs/fusion.onnx").write_bytes(b"x")
    with pytest.raises(BundleError):
        host.swap(wrong)
    with host.use() as model:
        assert model.generation == 1
    assert host.named("") == bundle_folder and host.named(bundle_folder.name) == bundle_folder
    for name in ("..", ".", "../" + bundle_folder.name, "/etc", "missing", "a/b", "a\0b"):
        with pytest.raises(RequestError, match="no bundle of this name"):
            host.named(name)
    host.close()


def test_a_first_model_that_fails_is_no_model(tmp_path: Path):
    host = ModelHost(tmp_path / "missing")
    host.start()
    assert "does not exist" in host.problem
    with pytest.raises(NotReadyError, match="See the log"), host.use():
        pass


def run(coroutine):
    return asyncio.run(coroutine)


def test_one_more_than_may_wait_is_refused_and_waiting_ends_by_deadline_or_cancel(clock, monkeypatch):
    monkeypatch.setattr(jobs_module, "time", clock)

    async def scenario():
        jobs, release, running = Jobs(1, 2, 10), threading.Event(), threading.Event()

        def block() -> str:
            running.set()
            release.wait(PATIENCE_S)
            return "done"

        first = asyncio.create_task(jobs.run(jobs.new(), block))
        while not running.is_set():
            await asyncio.sleep(0.001)
        late, stopped = jobs.new(seconds=0.05), jobs.new()
        waiting = [asyncio.create_task(jobs.run(job, block)) for job in (late, stopped)]
        while len(jobs) < 3:
            await asyncio.sleep(0.001)
        with pytest.raises(BusyError):
            await jobs.run(jobs.new(), block)
        assert jobs.retry_after >= 1 and len(jobs) == 3
        assert jobs.cancel(stopped.id) and not jobs.cancel(str(uuid.uuid4()))
        clock.now += 1
        for task, kind in zip(waiting, (DeadlineError, CancelledError), strict=True):
            with pytest.raises(kind) as caught:
                await task
            assert type(caught.value) is kind
        release.set()
        assert await first == "done" and len(jobs) == 0
        jobs.refuse_new()
        with pytest.raises(ClosingError):
            await jobs.run(jobs.new(), block)
        jobs.close()

    run(scenario())


def test_ids_and_times_of_jobs_are_checked():
    jobs, number = Jobs(1, 1, 10), str(uuid.uuid4())
    assert jobs.new(number.upper()).id == number
    before = time.monotonic()
    assert before + 10 <= jobs.new(seconds=1e6).deadline <= time.monotonic() + 10
    for arguments in (("Jane",), (None, 0.0), (None, -1.0), (None, float("nan"))):
        with pytest.raises(RequestError):
            jobs.new(*arguments)
    jobs.close()


def test_an_address_beyond_this_machine_needs_a_key(tmp_path: Path):
    keys = ApiKeys(("k" * 32,))
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(RequestError, match="without an API key"):
            ServerSettings(host)
        assert ServerSettings(host, keys=keys).hosts is None and ServerSettings(host, insecure=True)
    assert ServerSettings("127.0.0.1").hosts == {"127.0.0.1", "localhost", "[::1]"}
    assert ServerSettings("::1", allow_hosts=("Mimo.example",)).hosts == {"127.0.0.1", "localhost", "[::1]", "mimo.example"}
    for wrong in (
        {"tls_cert": tmp_path}, {"tls_cert": tmp_path, "tls_key": tmp_path}, {"allow_hosts": ("http://a",)},
        {"allow_origins": ("viewer.example",)}, {"port": 70_000}, {"max_callers": 0},
    ):  # fmt: skip
        with pytest.raises(RequestError):
            ServerSettings(**wrong)


def test_keys_come_from_a_file_and_are_kept_as_hashes(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"{'a' * 32}\n\n{'b' * 40}\n")
    keys = ApiKeys.read(file)
    assert keys and keys.accept("a" * 32) and keys.accept("b" * 40)
    assert not keys.accept("a" * 31) and not keys.accept("") and not keys.accept("ä\ud800")
    assert "a" * 32 not in repr(vars(keys))
    for content in ("", "short", "with spaces in the key"):
        file.write_text(content)
        with pytest.raises(RequestError):
            ApiKeys.read(file)
    with pytest.raises(RequestError, match="cannot be read"):
        ApiKeys.read(tmp_path / "missing")
