"""Energy sensors, read from folders and libraries like those of real machines, and joules per answer."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_cli import run

from mimo_benchmarks.system import sensors as module
from mimo_benchmarks.system.energy import measure_energy
from mimo_benchmarks.system.meter import EnergyMeter
from mimo_benchmarks.system.sensors import Sensor, SensorPlaces, Sensors, find_sensors, parse_tegrastats
from mimo_benchmarks.system.tables import energy_table
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.pipeline import Mimo


def no_library(name: str) -> ctypes.CDLL:
    raise OSError(name)


def places(root: Path, load: Callable[[str], ctypes.CDLL] = no_library, tegrastats: str = "no-such-program") -> SensorPlaces:
    return SensorPlaces(root / "powercap", root / "hwmon", root / "iio", "nvml", tegrastats, load)


def write(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def test_rapl_packages_count_and_their_parts_do_not(tmp_path) -> None:
    write(tmp_path, {
        "powercap/intel-rapl:0/name": "package-0", "powercap/intel-rapl:0/energy_uj": 5_000_000,
        "powercap/intel-rapl:0/max_energy_range_uj": 262_143_000_000,
        "powercap/intel-rapl:0:0/name": "core", "powercap/intel-rapl:0:0/energy_uj": 1_000_000,
        "powercap/intel-rapl:0:1/name": "dram", "powercap/intel-rapl:0:1/energy_uj": 2_000_000,
        "powercap/intel-rapl:1/name": "psys", "powercap/intel-rapl:1/energy_uj": 9_000_000,
    })  # fmt: skip
    found = find_sensors(places(tmp_path))
    assert {s.name: (s.read(), s.counter, s.whole) for s in found.sensors} == {
        "package-0": (5.0, True, True), "core": (1.0, True, False), "dram": (2.0, True, True), "psys": (9.0, True, False),
    }  # fmt: skip
    assert found.sensors[0].wraps_at == 262_143
    assert set(found.missing) == {"INA3221", "NVML", "tegrastats"}


def test_rapl_that_only_root_may_read_is_named_with_the_remedy(tmp_path) -> None:
    (tmp_path / "powercap/intel-rapl:0/energy_uj").mkdir(parents=True)  # reading a folder fails, also for root
    found = find_sensors(places(tmp_path))
    assert not found.sensors and "run as root" in found.missing["RAPL"]


def test_rails_of_a_jetson_are_volts_times_amperes(tmp_path) -> None:
    write(tmp_path, {
        "hwmon/hwmon1/name": "ina3221", "hwmon/hwmon1/in1_label": "VDD_IN", "hwmon/hwmon1/in1_input": 5000,
        "hwmon/hwmon1/curr1_input": 900, "hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV", "hwmon/hwmon1/in2_input": 5000,
        "hwmon/hwmon1/curr2_input": 300, "hwmon/hwmon1/in7_label": "sum of shunt voltages", "hwmon/hwmon1/in7_input": 1,
        "hwmon/hwmon0/name": "acpitz",
    })  # fmt: skip
    found = find_sensors(places(tmp_path))
    assert {s.name: (s.read(), s.whole) for s in found.sensors} == {"VDD_IN": (4.5, True), "VDD_CPU_GPU_CV": (1.5, False)}
    assert not any(s.counter for s in found.sensors)


def test_rails_of_jetpack_4_are_milliwatts_and_all_count_without_one_of_the_whole_board(tmp_path) -> None:
    write(tmp_path, {
        "iio/iio:device0/rail_name_0": "GPU", "iio/iio:device0/in_power0_input": 1200,
        "iio/iio:device0/rail_name_1": "CPU", "iio/iio:device0/in_power1_input": 800,
    })  # fmt: skip
    found = find_sensors(places(tmp_path))
    assert {s.name: (s.read(), s.whole) for s in found.sensors} == {"GPU": (1.2, True), "CPU": (0.8, True)}


@pytest.mark.parametrize(
    ("line", "rails"),
    [
        ("RAM 2846/7620MB (lfb 1x4MB) CPU [1%@1510] GR3D_FREQ 0% cpu@49C VDD_IN 4980mW/4980mW VDD_CPU_GPU_CV 539mW/540mW",
         {"VDD_IN": 4.98, "VDD_CPU_GPU_CV": 0.539}),
        ("RAM 1000/3964MB (lfb 1x4MB) POM_5V_IN 2940/2940 POM_5V_GPU 40/40", {"POM_5V_IN": 2.94, "POM_5V_GPU": 0.04}),
        ("RAM 1000/3964MB SWAP 0/1982MB", {}),
    ],
)  # fmt: skip
def test_lines_of_tegrastats(line: str, rails: dict[str, float]) -> None:
    assert parse_tegrastats(line) == rails


def test_tegrastats_is_followed_and_ended(tmp_path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text("#!/bin/sh\necho 'VDD_IN 4980mW/4980mW VDD_SOC 1000mW/1000mW'\nexec sleep 60\n")
    program.chmod(0o755)
    with find_sensors(places(tmp_path, tegrastats=str(program))) as found:
        assert {s.name: (s.read(), s.whole) for s in found.sensors} == {"VDD_IN": (4.98, True), "VDD_SOC": (1.0, False)}
        assert "tegrastats" not in found.missing


class FakeNvml:
    """One GPU; ``energy`` None is a GPU before Volta."""

    def __init__(self, energy: int | None, milliwatts: int = 70_000) -> None:
        self.energy, self.milliwatts, self.open = energy, milliwatts, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            return getattr(self, f"_{name}")(*arguments)

        self.__dict__[name] = call
        return call

    def _nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def _nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def _nvmlDeviceGetCount_v2(self, count: object) -> int:
        count._obj.value = 1
        return 0

    def _nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: object) -> int:
        return 0

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: object, value: object) -> int:
        if self.energy is None:
            return 3
        value._obj.value = self.energy
        return 0

    def _nvmlDeviceGetPowerUsage(self, handle: object, value: object) -> int:
        value._obj.value = self.milliwatts
        return 0


@pytest.mark.parametrize(("energy", "value"), [(12_500, 12.5), (None, 70.0)])
def test_a_gpu_tells_its_energy_or_else_its_power(tmp_path, energy, value) -> None:
    library = FakeNvml(energy)
    with find_sensors(places(tmp_path, lambda name: library)) as found:  # type: ignore[arg-type, return-value]
        (sensor,) = found.sensors
        assert (sensor.name, sensor.read(), sensor.counter) == ("GPU 0", value, energy is not None)
        assert library.open == 1
    assert library.open == 0


# -- joules ------------------------------------------------------------------------------------------------------------


def test_power_is_integrated_and_a_counter_that_wraps_goes_on() -> None:
    watts, joules = iter([10.0, 20.0, 20.0]), iter([98.0, 99.0, 4.0])
    meter = EnergyMeter([
        Sensor("rail", "INA3221", lambda: next(watts)), Sensor("package-0", "RAPL", lambda: next(joules), True, wraps_at=100.0),
    ])  # fmt: skip
    for seconds in (0.0, 2.0, 1.0):
        meter.sample(seconds)
    assert meter.joules == [2 * 15 + 20, 1 + 5]


def test_a_sensor_that_fails_in_between_leaves_a_gap() -> None:
    values = iter([10.0, None, 10.0])

    def read() -> float:
        value = next(values)
        if value is None:
            raise OSError("busy")
        return value

    meter = EnergyMeter([Sensor("rail", "INA3221", read)])
    for _ in range(3):
        meter.sample(1.0)
    assert meter.joules == [10.0]


def test_joules_per_answer_are_of_whole_boards_and_net_of_idle_power(bundle, request_) -> None:
    sensors = [Sensor("VDD_IN", "INA3221", lambda: 8.0), Sensor("VDD_SOC", "INA3221", lambda: 2.0, whole=False)]
    with Mimo.load(bundle, threads=1, cache_images=0) as mimo:
        result = measure_energy(
            mimo, Bundle.open(bundle), [request_], Sensors(sensors), kinds=("mask_only",), seconds=0.2, idle_seconds=0.1
        )
    details = result.details
    assert details["idle_w"] == pytest.approx(8.0) and details["asks"]["mask_only"] >= 1
    assert details["joules_per_ask"]["mask_only"] == details["sensors"]["VDD_IN"]["joules_per_ask"]["mask_only"] > 0
    # Constant power: nothing is left without the idle power.
    assert details["net_joules_per_ask"]["mask_only"] == pytest.approx(0, abs=1e-3)
    table = energy_table(result)
    assert "VDD_SOC (INA3221, part of another)" in table


def test_a_machine_without_sensors_fails_after_saying_what_was_looked_for(bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SensorPlaces", lambda: places(tmp_path))
    out = tmp_path / "out.json"
    result = run("energy", bundle, "--threads", 1, "--json", out)
    assert result.exit_code == 1 and "no energy sensor" in result.stderr and "run as root" not in result.stderr
    assert "no program no-such-program" in result.stdout
    found = json.loads(out.read_text())
    assert (
        found["sensors"] == {}
        and found["idle_w"] is None
        and set(found["missing"]) == {"RAPL", "INA3221", "NVML", "tegrastats"}
    )
    assert found["result"]["figures"][0]["value"] is None
