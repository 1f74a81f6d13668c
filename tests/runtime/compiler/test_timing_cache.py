"""Kernel times that a build measured, and the memory that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiler_cases import KEY
from tensorrt_fake import compile_with, offline

from mimo_runtime.compiler import memory, timing_cache
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.hardware import host


def test_a_timing_cache_is_made_used_and_kept_apart_by_release_and_gpu(tmp_path: Path):
    first = compile_with(offline("10.3.0"), timing_cache=tmp_path)
    assert first.cache is not None and (first.cache_state, first.cache[0]) == ("new", "tensorrt-10.3.0-Fake-A100-8.0.timing")
    timing_cache.write(tmp_path, *first.cache)
    trt = offline("10.3.0")
    second = compile_with(trt, timing_cache=tmp_path)
    assert second.cache is not None and second.cache_state == "used"
    assert trt.last("IBuilderConfig").create_timing_cache.call_args.args == (b"+",)
    assert trt.last("IBuilderConfig").set_timing_cache.call_args.args[1] is False  # TensorRT's own comparison stays on
    other = compile_with(offline("11.4.0.106"), timing_cache=tmp_path)
    assert other.cache is not None and (other.cache_state, other.cache[0]) == (
        "new",
        "tensorrt-11.4.0.106-Fake-A100-8.0.timing",
    )


def test_a_timing_cache_of_another_key_is_an_error(tmp_path: Path):
    other = timing_cache.Key("10.3.0", "Orin", "8.7")
    timing_cache.write(tmp_path, KEY.file_name, timing_cache.pack(other, b"times"))
    with pytest.raises(EngineError, match=r"holds the times of TensorRT 10.3.0 on Orin \(8.7\).*Delete it"):
        compile_with(offline("10.3.0"), timing_cache=tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"", lambda c: c + b"x", lambda c: b"\x00" + c, lambda c: b"[]\n"]
)
def test_a_damaged_timing_cache_is_an_error(damage, tmp_path: Path):
    (tmp_path / KEY.file_name).write_bytes(damage(timing_cache.pack(KEY, b"times")))
    with pytest.raises(EngineError, match="is damaged. Delete it"):
        timing_cache.read(tmp_path, KEY)


def test_a_timing_cache_that_tensorrt_refuses_is_begun_anew(tmp_path: Path):
    timing_cache.write(tmp_path, KEY.file_name, timing_cache.pack(KEY, b"times"))
    trt = offline("10.3.0")
    trt.takes_cache = lambda data: not data
    made = compile_with(trt, timing_cache=tmp_path)
    assert made.cache_state == "refused" and made.cache is not None and made.cache[1].endswith(b"\n+")


def test_a_timing_cache_folder_that_cannot_be_made_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be made"):
        timing_cache.write(tmp_path / "file" / "folder", "name", b"")


def test_a_build_that_does_not_fit_into_memory_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr(host, "memory_mb", lambda: (8000, 2500))
    memory.check("vision_encoder", 50 * 2**20, 1024)
    with pytest.raises(EngineError, match="vision_encoder needs about 2648 MB .*2500 MB of 8000 MB are free.*876 MB or less"):
        memory.check("vision_encoder", 100 * 2**20, 1024)
    with pytest.raises(EngineError, match="Close other programs.$"):
        memory.check("vision_encoder", 2**30, 1024)
    monkeypatch.setattr(host, "memory_mb", lambda: None)
    memory.check("vision_encoder", 2**40, 1024)
