"""The phantom generator: determinism, exact masks, lesions, the dataset folder and its errors."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mimo_runtime.errors import RequestError
from mimo_train.data.phantom import CLASS_IDS, LESIONS, MODALITIES, PhantomImage, generate, phantom
from mimo_train.data.phantom.canvas import Canvas, blur, ellipse, grown

SIZE = 96
REGIONS = {"ct": "abdomen", "mri": "brain", "xray": "chest", "ultrasound": "breast"}
ANATOMY = {"ct": {"aorta", "spine"}, "mri": {"ventricles"}, "xray": {"right lung", "left lung", "heart"}, "ultrasound": set()}
OWN_LESIONS = {
    "ct": {"liver lesion", "kidney cyst"},
    "mri": {"brain lesion"},
    "xray": {"lung nodule"},
    "ultrasound": {"cyst", "solid mass"},
}


def digest(image: PhantomImage) -> str:
    return hashlib.sha256(image.pixels.tobytes() + image.labels.tobytes() + str(image.pixels.shape).encode()).hexdigest()


@pytest.fixture(scope="module")
def series() -> dict[str, list[PhantomImage]]:
    return {modality: [phantom(modality, seed, SIZE) for seed in range(40)] for modality in MODALITIES}


@pytest.mark.parametrize("modality", MODALITIES)
def test_image_and_labels_agree_in_form(series, modality) -> None:
    for image in series[modality]:
        height, width = image.labels.shape
        assert image.pixels.shape == (height, width, 3) and image.pixels.dtype == np.uint8 and image.labels.dtype == np.uint8
        assert max(height, width) <= 1.25 * SIZE + 1
        assert (image.pixels == image.pixels[:, :, :1]).all()
        assert image.modality == modality and image.region == REGIONS[modality]
        assert set(image.classes) == set(np.unique(image.labels)) - {0}
        assert ANATOMY[modality] <= set(image.classes.values())
        assert set(image.classes.values()) & set(LESIONS) <= OWN_LESIONS[modality]
        assert (image.spacing_mm is None) == (modality == "xray")
        assert image.pixels.std() > 20  # something to look at, neither black nor saturated
        assert (image.pixels >= 254).mean() < 0.35


@pytest.mark.parametrize("modality", MODALITIES)
def test_some_images_have_no_lesion_and_some_have_several(series, modality) -> None:
    counts = [image.attributes["lesions"] for image in series[modality]]
    assert 0.05 <= counts.count(0) / len(counts) <= 0.45
    assert max(counts) >= 2
    for image, count in zip(series[modality], counts, strict=True):
        assert bool(set(image.classes.values()) & OWN_LESIONS[modality]) == (count > 0)


@pytest.mark.parametrize("modality", MODALITIES)
def test_anatomy_and_shape_vary(series, modality) -> None:
    assert len({image.labels.shape for image in series[modality]}) > 20
    assert any(image.labels.shape[0] != image.labels.shape[1] for image in series[modality])


def test_left_and_right_are_the_patients(series) -> None:
    for modality, right, left in (
        ("ct", "right kidney", "left kidney"),
        ("xray", "right lung", "left lung"),
        ("ct", "liver", "spleen"),
    ):
        for image in series[modality]:
            if {right, left} <= set(image.classes.values()):
                assert np.nonzero(image.mask(right))[1].mean() < np.nonzero(image.mask(left))[1].mean()


def test_masks_lie_on_what_they_name(series) -> None:
    """A cyst is darker, a lung darker and bone brighter than the surrounding: on average over seeds, per mask."""

    def contrast(modality: str, name: str) -> list[float]:
        contrasts = []
        for image in series[modality][:30]:
            mask = image.mask(name)
            if mask.sum() >= 30:
                ring = (blur(mask.astype(np.float32), 2.0) > 0.05) & ~mask
                contrasts.append(float(image.pixels[mask, 0].mean() - image.pixels[ring, 0].mean()))
        assert len(contrasts) >= 5
        return contrasts

    assert max(contrast("ultrasound", "cyst")) < -20
    assert max(contrast("xray", "right lung")) < -20
    assert min(contrast("ct", "spine")) > 10
    assert np.mean(np.array(contrast("xray", "lung nodule")) > 4) > 0.8


@pytest.mark.parametrize("modality", MODALITIES)
def test_same_seed_same_bytes_other_seed_other_image(series, modality) -> None:
    assert digest(phantom(modality, 3, SIZE)) == digest(series[modality][3])
    assert len({digest(image) for image in series[modality]}) == len(series[modality])


def test_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib\nfrom mimo_train.data.phantom import MODALITIES, phantom\n"
        "for m in MODALITIES:\n"
        f"    i = phantom(m, (7, 1), {SIZE})\n"
        "    print(hashlib.sha256(i.pixels.tobytes() + i.labels.tobytes() + str(i.pixels.shape).encode()).hexdigest())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [digest(phantom(modality, (7, 1), SIZE)) for modality in MODALITIES]


def test_phantoms_are_written_as_a_data_set(tmp_path) -> None:
    calls = []
    folder = generate(tmp_path / "data", 20, 5, SIZE, progress=lambda done, total: calls.append((done, total)))
    records = [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]
    assert calls == [(k + 1, 20) for k in range(20)]
    assert [record["modality"] for record in records[:4]] == list(MODALITIES)
    assert sorted(record["split"] for record in records) == ["test"] * 2 + ["train"] * 16 + ["val"] * 2
    assert len({record["case"] for record in records}) == 20
    for k, record in enumerate(records):
        pixels = np.asarray(Image.open(folder / record["image"]))
        labels = np.asarray(Image.open(folder / record["mask"]))
        image = phantom(record["modality"], (5, k), SIZE)
        assert np.array_equal(pixels, image.pixels[:, :, 0]) and np.array_equal(labels, image.labels)
        assert record["classes"] == {str(index): name for index, name in image.classes.items()}
        assert record["region"] == REGIONS[record["modality"]]
        assert record["attributes"]["lesions"] == image.attributes["lesions"]
        assert record.get("pixel_spacing_mm") == (list(image.spacing_mm) if image.spacing_mm else None)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_dataset_is_reproducible_and_extends(tmp_path) -> None:
    first, again, longer = (generate(tmp_path / name, count, 9, SIZE) for name, count in (("a", 4), ("b", 4), ("c", 8)))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 9
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes()
        if file.suffix == ".png":  # image k does not depend on the count; the split may
            assert (first / file).read_bytes() == (longer / file).read_bytes()


def test_splits_are_balanced_over_the_modalities(tmp_path) -> None:
    from mimo_train.data.phantom.dataset import _splits

    splits = _splits(400, 0, 4)
    for modality in range(4):
        assert [splits[modality::4].count(name) for name in ("train", "val", "test")] == [80, 10, 10]
    assert _splits(3, 0, 4).count("train") == 1
    assert _splits(1, 0, 4) == ["train"]


def test_an_empty_folder_is_used_and_a_full_one_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    generate(tmp_path / "empty", 1, 0, SIZE)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match=r"not empty. Choose another") as caught:
        generate(tmp_path / "empty", 1, 0, SIZE)
    assert caught.value.exit_code == 2
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is a file"):
        generate(tmp_path / "file", 1, 0, SIZE)
    (tmp_path / "file").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_run_leaves_nothing(tmp_path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "data", 4, 0, SIZE, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_one_clear_error(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="cannot be written"):
        generate(tmp_path / "file" / "data", 1, 0, SIZE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "--count"),
        ({"count": 1, "size": 8}, "--size 8"),
        ({"count": 1, "size": 5000}, "--size 5000"),
        ({"count": 1, "seed": -1}, "--seed -1"),
        ({"count": 1, "modalities": ("pet",)}, "'pet'"),
        ({"count": 1, "modalities": ()}, "no phantom modality"),
    ],
)
def test_bad_arguments_name_the_option_and_write_nothing(tmp_path, arguments, words) -> None:
    with pytest.raises(RequestError, match=words):
        generate(tmp_path / "data", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_class_ids_are_stable() -> None:
    """Trained weights and written datasets know these numbers: append, never renumber."""
    assert list(CLASS_IDS) == [
        "liver", "spleen", "right kidney", "left kidney", "aorta", "spine", "stomach", "gallbladder",
        "liver lesion", "kidney cyst",
        "ventricles", "brain lesion", "right lung", "left lung", "heart", "lung nodule", "cyst", "solid mass",
    ]  # fmt: skip
    assert list(CLASS_IDS.values()) == list(range(1, 19))


def test_a_polygon_covers_its_area_and_grows_outwards() -> None:
    canvas = Canvas.fit(200, 160, (100.0, 100.0))
    circle = ellipse(0, 0, 30, 30)
    area = canvas.polygon(circle).sum() * canvas.spacing**2
    assert area == pytest.approx(np.pi * 900, rel=0.04)
    assert canvas.polygon(grown(circle, 5)).sum() * canvas.spacing**2 == pytest.approx(np.pi * 35**2, rel=0.04)
    assert canvas.polygon(grown(circle[::-1], 5)).sum() == pytest.approx(canvas.polygon(grown(circle, 5)).sum(), rel=0.02)


@pytest.mark.parametrize("sigma", [0.0, 2.0, 6.0])
def test_what_is_blurred_can_be_written_to(sigma) -> None:
    """A wide blur goes by way of a smaller image, whose memory is not ours. Only large images need one."""
    blurred = blur(np.eye(64, dtype=np.float32), sigma)
    blurred *= 2
    assert blurred.sum() == pytest.approx(128, rel=0.2)


def test_a_tumour_is_drawn_in_a_large_image() -> None:
    drawn = [phantom("mri", (seed, 1), 512) for seed in range(4)]
    assert all(max(image.labels.shape) > 256 for image in drawn)
    assert any("brain lesion" in image.classes.values() for image in drawn)


@pytest.mark.parametrize("sigma", [1.0, 6.0, 15.0])
def test_blur_is_a_gaussian(sigma) -> None:
    field = np.zeros((129, 129), np.float32)
    field[60:69, 60:69] = 1
    result = blur(field, sigma)
    y, x = np.mgrid[:129, :129] - 64
    assert result.sum() == pytest.approx(81, rel=0.03)
    assert (result * x**2).sum() / result.sum() == pytest.approx(sigma**2 + 20 / 3, rel=0.15)
    assert (result * y**2).sum() / result.sum() == pytest.approx(sigma**2 + 20 / 3, rel=0.15)
