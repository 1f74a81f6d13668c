"""How many cores the control groups of a process allow, on trees of files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_runtime.hardware import host


def machine(root: Path, groups: str, files: dict[str, str]) -> list[float]:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return sorted(host._cpu_quotas(root))


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),  # a container with its own namespace
        ("0::/system.slice/mimo.service\n", {"system.slice/cpu.max": "100000 100000\n"}, [1.0]),  # the slice limits
        (
            "0::/a/b/c\n",
            {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n", "a/b/c/cpu.max": "200000 100000\n"},
            [2.0, 4.0],
        ),
        ("0::/docker/0123\n", {"cpu.max": "50000 100000\n"}, [0.5]),  # the path is the host's
        ("0::/../../other\n", {"cpu.max": "100000 100000\n"}, [1.0]),
        (
            "4:memory:/x\n1:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            [],
        ),
        (
            "2:cpuset:/\n1:cpu,cpuacct:/docker/0123\n",
            {"cpu/docker/cpu.cfs_quota_us": "300000\n", "cpu/docker/cpu.cfs_period_us": "100000\n"},
            [3.0],
        ),
        (
            "1:cpu:/\n0::/a\n",
            {"unified/a/cpu.max": "100000 100000\n", "cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            [1.0, 2.0],
        ),
        ("0::/\n", {"cpu.max": "garbage\n"}, []),
        ("0::/\n", {"cpu.max": "100000 0\n"}, []),
        ("", {"cpu.max": "100000 100000\n"}, [1.0]),
    ],
)  # fmt: skip
def test_all_quotas_above_a_process_are_read(tmp_path: Path, groups: str, files: dict[str, str], quotas: list[float]):
    assert machine(tmp_path, groups, files) == quotas


def test_the_smallest_quota_bounds_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "_allowed_cpus", lambda: list(range(8)))
    for quotas, cores in (([], 8), ([2.5, 4.0], 3), ([0.5], 1), ([64.0], 8)):
        monkeypatch.setattr(host, "_cpu_quotas", lambda root, quotas=quotas: iter(quotas))
        assert host.usable_cores() == cores
        assert 1 <= host.worker_threads() <= cores
