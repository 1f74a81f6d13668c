"""What a configuration file may say."""

from __future__ import annotations

import json

import pytest

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.model.config import PRESETS, ContourCalibration, IntensityWindow, MimoConfig, PresenceCalibration


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_written_is_read(preset, tmp_path):
    config = MimoConfig.from_preset(
        preset, presence_threshold=0.0, abstain_threshold=1.0, crop_scale=3.5, full_image_weight=0.3,
        windows=(IntensityWindow("ct", -600, 1500), IntensityWindow("pet", 5, 10)),
        contours=(ContourCalibration("liver", "box", 0.1, 0.2, 31), ContourCalibration()),
        presence_calibration=(PresenceCalibration("liver", 0.2, 40),), coverage=0.8,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert MimoConfig.read(tmp_path / "config.json") == config


def test_weights_of_earlier_versions_stay_readable():
    config = MimoConfig(entities=("liver",), crop_scale=3.5)
    data = json.loads(json.dumps(config.to_dict()))
    renamed = {"crop_scale": "closer_factor", "full_image_weight": "first_share"}
    added = {"windows", "contours", "coverage", "presence_calibration", "miss_rate", "entity_modalities"}
    eight = {k: v for k, v in data.items() if k not in added} | {"format_version": 8}
    seven = {renamed.get(k, k): v for k, v in eight.items()} | {"format_version": 7}
    six = {k: v for k, v in seven.items() if k != "entity_regions"} | {"format_version": 6}
    five = {k: v for k, v in six.items() if k != "first_share"} | {"format_version": 5}
    assert MimoConfig.from_dict(eight) == MimoConfig.from_dict(six) == MimoConfig.from_dict(five) == config
    with pytest.raises(BundleError, match="has format version 4, this program reads 5 to 10"):
        MimoConfig.from_dict({**five, "format_version": 4})
    with pytest.raises(BundleError, match="missing crop_scale"):
        MimoConfig.from_dict({k: v for k, v in five.items() if k != "closer_factor"})
    with pytest.raises(BundleError, match="has format version 5, which has no first_share"):
        MimoConfig.from_dict({**five, "first_share": 0.3})
    for wrong in (6.0, True, "6"):
        with pytest.raises(BundleError, match="format version"):
            MimoConfig.from_dict({**six, "format_version": wrong})


def test_contours_of_version_9_are_for_every_score():
    config = MimoConfig(contours=tuple(ContourCalibration(name, "box", 0.1, 0.2, 31) for name in ("", "liver")))
    data = json.loads(json.dumps(config.to_dict()))
    for entry in data["contours"]:
        assert entry.pop("min_score") == 0.0
    assert MimoConfig.from_dict({**data, "format_version": 9}) == config
    with pytest.raises(BundleError, match="missing min_score"):
        MimoConfig.from_dict(data)
    for wrong in (3, [3], "", None):
        with pytest.raises(BundleError, match="contours"):
            MimoConfig.from_dict({**data, "contours": wrong, "format_version": 9})


def test_entries_of_one_structure_differ_in_their_lowest_score():
    one, two = ContourCalibration("", "box", 0.1, 0.2, 31), ContourCalibration("", "box", 0.1, 0.2, 31, 0.85)
    data = json.loads(json.dumps(MimoConfig(contours=(one, two)).to_dict()))
    assert MimoConfig.from_dict(data).contours == (one, two)
    data["contours"][1]["min_score"] = 0
    with pytest.raises(BundleError, match="two entries for box 0.0"):
        MimoConfig.from_dict(data)


@pytest.mark.parametrize("field", ["entity_regions", "entity_modalities"])
def test_regions_and_modalities_of_entities_are_read_and_fit_them(field):
    config = MimoConfig(entities=("liver", "polyp"), **{field: (("abdomen", "brain"), ("colon",))})
    data = json.loads(json.dumps(config.to_dict()))
    assert MimoConfig.from_dict(data) == config
    with pytest.raises(RequestError, match=f"1 {field} for 2 entities"):
        MimoConfig(entities=("liver", "polyp"), **{field: (("abdomen",),)})
    for wrong in (["abdomen", "colon"], [["abdomen"], [3]], "abdomen"):
        with pytest.raises(BundleError, match=f"{field} has the wrong type"):
            MimoConfig.from_dict({**data, field: wrong})


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("dim",), 0, "dim is 0, not at least 1"),
        (("vocab_size",), -5, "vocab_size is -5"),
        (("vision", "depths"), [2, 0, 1, 1], "depths is 0, not at least 1"),
        (("text", "max_length"), 0, "text: field max_length is 0"),
        (("fusion", "mlp_ratio"), 0.0, "mlp_ratio is 0.0, not from 0.001 to 1000"),
        (("presence_threshold",), 1.5, "presence_threshold is 1.5, not from 0 to 1"),
        (("presence_threshold",), float("nan"), "presence_threshold is nan"),
        (("presence_temperature",), 0, "presence_temperature is 0.0"),
        (("entity_threshold",), -0.1, "entity_threshold is -0.1"),
        (("abstain_threshold",), 2, "abstain_threshold is 2.0"),
        (("mask_threshold",), 1.0, "mask_threshold is 1.0"),
        (("crop_scale",), float("inf"), "crop_scale is inf"),
        (("crop_scale",), "3", "crop_scale has the wrong type"),
        (("full_image_weight",), 1.5, "full_image_weight is 1.5, not from 0 to 1"),
        (("windows",), {}, "windows has the wrong type"),
        (("windows",), [["ct", 40, 400]], r"windows: field 0 has the wrong type"),
        (("windows",), [{"modality": "ct", "center": 40, "width": 0}], r"windows\[0\]: field width is 0.0"),
        (("windows",), [{"modality": "ct", "center": 40}], r"windows\[0\] does not fit IntensityWindow: missing width"),
        (("windows",), [{"modality": "ct", "center": c, "width": 9} for c in (1, 2)], "windows has two entries for ct"),
        (("contours",), [{**vars(ContourCalibration()), "cases": 1.5}], r"contours\[0\]: field cases has the wrong type"),
        (("coverage",), 0.1, "coverage is 0.1"),
    ],
)
def test_numbers_outside_their_range_are_refused(path, value, reason):
    data = json.loads(json.dumps(MimoConfig().to_dict()))
    table = data
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value
    with pytest.raises(BundleError, match=f"^config.json.*{reason}"):
        MimoConfig.from_dict(data)
