"""Odd sources, imported as a person does it: an nnU-Net folder, a COCO file of CVAT and turned photographs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_source import rle_runs
from PIL import Image

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.errors import RequestError

nibabel = pytest.importorskip("nibabel")

HEIGHT, WIDTH = 40, 56


def command(source: str, *arguments: object, output: Path, succeeds: bool = True) -> Any:
    """The summary of an import, or its error line."""
    line = [sys.executable, "-m", "mimo_train", "data", "import", source, *map(str, arguments), "-o", str(output), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    if not succeeds:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and len(done.stderr) < 400 and not output.exists()
        return done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_name(output: Path) -> dict[str, Record]:
    return {record.image.stem: record for record in Dataset.read(output).records}


def test_an_odd_nnunet_folder(tmp_path: Path) -> None:
    """nnU-Net v1: absolute paths of another machine, keys of four digits, ids as text, oblique at 45 degrees, and volumes
    without compression under the names of compressed ones."""
    values = np.random.default_rng(0).integers(-300, 400, (30, 28, 4)).astype(np.int16)
    labels = np.zeros(values.shape, np.uint8)
    labels[4:15, 6:20, 1:3], labels[8:11, 9:13, 2] = 1, 2
    c = 1.5 * 0.5**0.5
    affine = np.array([[-c, c, 0, 20], [-c, -c, 0, 9], [0, 0, 4, -50], [0, 0, 0, 1]])
    rounded = affine.copy()
    rounded[:2, :2] += [[2e-7, -2e-7], [-2e-7, 2e-7]]
    root = tmp_path / "Task501"
    for folder, name, data, place in (
        ("imagesTr", "p_1_0000", values, affine),
        ("imagesTr", "p_1_0001", values[::-1], affine),
        ("labelsTr", "p_1", labels, rounded),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(data, place), root / "volume.nii")
        (root / "volume.nii").rename(root / folder / f"{name}.nii.gz")
    listing = [{"image": "/data/Task501/imagesTr/p_1.nii.gz", "label": "/data/Task501/labelsTr/p_1.nii.gz"}]
    description = {"modality": {"0000": "T1", "0001": "CT"}, "labels": {"background": "0", "liver": "1", "cyst": "2"}}
    (root / "dataset.json").write_text(json.dumps(description | {"training": listing}))
    options = ("--region", "abdomen", "--channel", "CT", "--keep-names", "--empty-share", 1)
    summary = command("nnunet", root, *options, output=tmp_path / "out")
    assert summary["images"] == 4 and summary["classes"] == {"cyst": 1, "liver": 2}
    assert summary["notes"] == {
        "absolute_paths_taken_inside_the_folder": 2,
        "volumes_at_45_degrees_with_the_order_of_their_axes_kept": 1,
    }
    for k in range(4):
        # The first stored axis runs to the left, the second to the back: the picture shows them as they are.
        np.testing.assert_array_equal(by_name(tmp_path / "out")[f"p_1_{k:04d}"].load()[1], labels[..., k].T)
    moved = nibabel.Nifti1Image(labels, affine + np.diag([0, 0, 0, 0]) + np.outer([0, 0, 12, 0], [0, 0, 0, 1]))
    nibabel.save(moved, root / "labelsTr" / "p_1.nii.gz")
    error = command("nnunet", root, *options, output=tmp_path / "no", succeeds=False)
    assert "lies up to 3.0 voxels (12 mm) from its image" in error


def test_a_coco_file_of_cvat(tmp_path: Path) -> None:
    """Brush masks marked as crowds, numbers as text, cells that touch, a cell in two parts, a picture without suffix."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    cells = [((rows - y) / 5) ** 2 + ((columns - x) / 6) ** 2 < 1 for x, y in ((10, 10), (21, 10), (40, 25))]
    cells.append((rows > 30) & ((columns < 6) | (columns > 50)))
    Image.fromarray(np.uint8(60 + 100 * np.any(cells, axis=0))).save(tmp_path / "cells.png")
    (tmp_path / "cells.png").rename(tmp_path / "cells")
    annotations = [
        {
            "id": number, "image_id": "1", "category_id": "2", "iscrowd": 1, "attributes": {"occluded": False},
            "segmentation": {"counts": rle_runs(cell), "size": [HEIGHT, WIDTH]},
        }
        for number, cell in enumerate(cells, 1)
    ]  # fmt: skip
    images = [{"id": 1, "file_name": "cells", "width": str(WIDTH), "height": str(HEIGHT)}]
    source = tmp_path / "instances_default.json"
    categories = [{"id": "2", "name": "nucleus"}]
    source.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    summary = command("coco", source, "--modality", "microscopy", "--region", "skin", output=tmp_path / "out")
    assert summary["notes"] == {"crowds_taken_as_one_object_each": 4}
    (record,) = Dataset.read(tmp_path / "out").records
    np.testing.assert_array_equal(record.load()[1], np.any(cells, axis=0) * 2)
    np.testing.assert_array_equal(record.load_instances((HEIGHT, WIDTH)), sum(n * cell for n, cell in enumerate(cells, 1)))


def test_photographs_that_exif_turns(tmp_path: Path) -> None:
    """Masks with the tag, without it on the stored pixels, with alpha, in a palette with void, and of 0 and 255."""
    spot = np.zeros((HEIGHT, WIDTH), bool)
    spot[5:16, 8:30] = True
    turned = np.rot90(spot, -1)  # as EXIF orientation 6 shows the stored pixels
    alpha = np.dstack([np.full((WIDTH, HEIGHT, 3), 255, np.uint8), turned * np.uint8(255)])
    void = turned.astype(np.uint8)
    void[:2] = 255
    palette = Image.fromarray(void, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0] + [224, 224, 192] * 254)
    masks = {
        "tagged": (Image.fromarray(spot.astype(np.uint8)), 6),
        "stored": (Image.fromarray(spot.astype(np.uint8)), 0),
        "white": (Image.fromarray(turned * np.uint8(255)), 0),
        "alpha": (Image.fromarray(alpha), 0),
        "voc": (palette, 0),
    }
    pixels = np.where(spot[..., None], np.uint8([220, 50, 40]), np.uint8([90, 80, 70]))
    for folder, name, picture, orientation in (
        *(("images", name, Image.fromarray(pixels), 6) for name in masks),
        *(("masks", name, picture, orientation) for name, (picture, orientation) in masks.items()),
    ):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        tags = Image.Exif()
        if orientation:
            tags[0x0112] = orientation
        picture.save(tmp_path / "in" / folder / f"{name}.png", exif=tags)
    options = ("--classes", "1=spot", "--modality", "photo", "--region", "skin", "--keep-names", "--kind", "binary")
    summary = command("folders", tmp_path / "in", *options, output=tmp_path / "out")
    assert summary["images"] == 5 and summary["notes"].pop("images_turned_upright_by_exif") == 5
    assert summary["notes"].pop("masks_turned_upright_by_exif") == 1
    assert summary["notes"].pop("masks_drawn_on_the_stored_pixels_and_turned_like_their_image") == 1
    assert summary["notes"]["masks_with_pixels_that_are_not_annotated_taken_as_background"] == 1
    for name, record in by_name(tmp_path / "out").items():
        image, labels = record.load()
        np.testing.assert_array_equal(labels, turned, err_msg=name)
        np.testing.assert_array_equal(image[..., 0] > 150, turned, err_msg=name)


@pytest.mark.parametrize("source", ["coco", "nnunet", "folders", "instruct"])
def test_a_source_that_is_missing_is_named_before_a_missing_option(source: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from mimo_train.cli.main import main

    missing = tmp_path / "missing.json"
    result = CliRunner().invoke(main, ["data", "import", source, str(missing), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, RequestError) or result.exit_code == 2
    assert f"the source {missing} does not exist" in f"{result.exception} {result.output}"
