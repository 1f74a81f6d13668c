"""``mimo-run batch``: answers, failures, lists, resuming, and what the files say."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import fakes
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mimo_runtime.cli.commands import main
from mimo_runtime.errors import RequestError
from mimo_runtime.services.batch.items import items_of
from mimo_runtime.services.batch.ledger import LEDGER, Entry, Ledger, key_of
from mimo_runtime.services.batch.question import Question

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
BOX = ",".join(f"{v:g}" for v in fakes.BOX)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(fakes.picture(value=100 + number)).save(folder / f"SECRET^NAME {number:02d}.png")
    return folder


def run(bundle: Path, *arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["batch", str(bundle), *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_every_image_of_a_folder_has_a_row_and_a_result(bundle_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 5)
    (images / "notes.txt").write_text("no image")
    run(bundle_folder, images, "--text", "polyp", "--box", BOX, "-o", tmp_path / "out", "--jobs", 2)
    summary = rows(tmp_path / "out/summary.csv")
    assert [row["number"] for row in summary if row["finding"] == "0"] == ["1", "2", "3", "4", "5"]
    assert all(row["present"] == "true" and int(row["area_px"]) > 0 for row in summary if row["finding"] == "0")
    for row in summary:
        answer = json.loads((tmp_path / "out" / row["folder"] / "answer.json").read_text("utf-8"))
        assert answer["findings"][int(row["finding"])]["score"] == float(row["score"])
    assert rows(tmp_path / "out/failures.csv") == []
    sources = [Path(row["source"]).name for row in rows(tmp_path / "out/inputs.csv")]
    assert sources == [f"SECRET^NAME {number:02d}.png" for number in range(5)]


def test_only_the_list_of_inputs_has_the_names_of_files(bundle_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 2)
    (images / "SECRET^NAME damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    result = run(bundle_folder, images, "--text", "polyp", "-o", tmp_path / "out", code=3)
    assert "SECRET" not in result.output
    for file in (tmp_path / "out").rglob("*"):
        assert "SECRET" not in file.name
        if file.is_file() and file.name != "inputs.csv":
            assert b"SECRET" not in file.read_bytes(), file


def test_failures_are_listed_and_tried_again(bundle_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 3)
    whole = (images / "SECRET^NAME 01.png").read_bytes()
    (images / "SECRET^NAME 01.png").write_bytes(whole[:60])
    arguments = (images, "--text", "polyp", "-o", tmp_path / "out", "--json")
    first = json.loads(run(bundle_folder, *arguments, code=3).stdout)
    assert first["failures"][0]["reason"].startswith("input 2 ")
    assert (first["answered"], [failure["number"] for failure in first["failures"]]) == (2, [2])
    assert rows(tmp_path / "out/failures.csv") == [{"number": "2", "reason": first["failures"][0]["reason"]}]
    (images / "SECRET^NAME 01.png").write_bytes(whole)
    second = json.loads(run(bundle_folder, *arguments).stdout)
    assert (second["answered"], second["resumed"], second["failures"]) == (1, 2, [])
    assert rows(tmp_path / "out/failures.csv") == []


def test_a_batch_that_asks_nothing_is_refused_before_it_writes(bundle_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 2)
    result = run(bundle_folder, images, "-o", tmp_path / "out", code=2)
    assert result.stderr.startswith("error: nothing is asked about 2 of 2 images, first input 1. Give a text, a box or a point")
    assert not (tmp_path / "out").exists()


def test_a_missing_ray_is_refused_before_it_writes(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    images = write_images(tmp_path / "in", 1)
    result = run(bundle_folder, images, "--text", "polyp", "-o", tmp_path / "out", "--engine", "ray", code=2)
    assert "mimo-edge[ray]" in result.stderr and not (tmp_path / "out").exists()


def test_another_question_is_answered_anew(bundle_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 2)
    for text, answered in (("polyp", 2), ("polyp", 0), ("liver", 2)):
        report = json.loads(run(bundle_folder, images, "--text", text, "-o", tmp_path / "out", "--json").stdout)
        assert report["answered"] == answered


def test_equal_images_are_answered_once(bundle_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", 1)
    (images / "copy.png").write_bytes((images / "SECRET^NAME 00.png").read_bytes())
    report = json.loads(run(bundle_folder, images, "--text", "polyp", "-o", tmp_path / "out", "--json", "--jobs", 2).stdout)
    assert (report["images"], report["answered"], report["resumed"]) == (2, 1, 1)
    assert len({row["key"] for row in rows(tmp_path / "out/summary.csv")}) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_gives_each_image_its_question(bundle_folder: Path, tmp_path: Path, kind: str) -> None:
    write_images(tmp_path / "in", 2)
    first, second = ("in/SECRET^NAME 00.png", "in/SECRET^NAME 01.png")
    file = tmp_path / f"list.{kind}"
    if kind == "csv":
        file.write_text(f'image,text,box\n{first},polyp,"{BOX}"\n{second},,"0,0,50,30;{BOX}"\n', "utf-8")
    else:
        given = [
            {"image": first, "text": "polyp", "box": list(fakes.BOX)},
            {"image": second, "boxes": [[0, 0, 50, 30], fakes.BOX]},
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in given), "utf-8")
    items = items_of([str(file)], Question("liver"))
    assert [item.question.text for item in items] == ["polyp", "liver"]
    assert [item.question.boxes for item in items] == [(fakes.BOX,), ((0.0, 0.0, 50.0, 30.0), fakes.BOX)]
    run(bundle_folder, file, "--text", "liver", "-o", tmp_path / "out")
    assert {row["number"] for row in rows(tmp_path / "out/summary.csv")} == {"1", "2"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,colour\na.png,red\n", "line 2 of a list has an unknown field"),
        ("image,box\na.png,\"1,2,3\"\n", "line 2 of a list has a wrong box"),
        ("image,frame\na.png,-1\n", "line 2 of a list has a wrong frame"),
        ("image,text\n,polyp\n", "line 2 of a list has no image"),
        ("image\na.png,b.png\n", "line 2 of a list has more cells"),
        ("image,text\n", "a list has no rows"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_with_its_line(bundle_folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    result = CliRunner().invoke(main, ["batch", str(bundle_folder), str(tmp_path / "list.csv"), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, RequestError) or result.exit_code == 2
    assert message in (str(result.exception) + result.output)
    assert not (tmp_path / "out").exists()


def test_dicom_objects_are_written_beside_each_answer(bundle_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from dicom_series import write_ct_series

    write_ct_series(tmp_path / "study", slices=2)
    arguments = (tmp_path / "study", "--text", "polyp", "--box", "5,5,30,30", "-o", tmp_path / "out", "--write", "sr,coco")
    run(bundle_folder, *arguments)
    folders = {row["folder"] for row in rows(tmp_path / "out/summary.csv")}
    assert len(folders) == 2
    for folder in folders:
        assert (tmp_path / "out" / folder / "objects" / "sr.dcm").is_file()


def test_a_deidentified_batch_has_no_list_of_inputs_and_other_keys(bundle_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    images = write_images(tmp_path / "in", 1)
    (tmp_path / "secret").write_text("a secret of the site, long")
    secret = ("--write", "coco", "--deidentify", tmp_path / "secret")
    run(bundle_folder, images, "--text", "polyp", "-o", tmp_path / "open", "--write", "coco")
    run(bundle_folder, images, "--text", "polyp", "-o", tmp_path / "hidden", *secret)
    assert not (tmp_path / "hidden/inputs.csv").exists()
    keys = [rows(tmp_path / name / "summary.csv")[0]["key"] for name in ("open", "hidden")]
    assert keys[0] != keys[1]


def test_a_foreign_folder_and_a_running_batch_are_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("mine")
    with pytest.raises(RequestError, match="is not empty"):
        Ledger(tmp_path / "home")
    with Ledger(tmp_path / "out"), pytest.raises(RequestError, match="another batch writes"):
        Ledger(tmp_path / "out")


def test_half_a_line_of_a_killed_program_is_removed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out") as ledger:
        ledger.add(Entry(key_of("", "a"), {"text": "é"}, ({"phrase": "polyp"},)))
    file = tmp_path / "out" / LEDGER
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"key": "half')
    with Ledger(tmp_path / "out") as ledger:
        assert list(ledger.entries) == [key_of("", "a")]
        ledger.add(Entry(key_of("", "b"), {}, ()))
    assert len(file.read_bytes().splitlines()) == 3


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("no ledger\n")
    with pytest.raises(RequestError, match="damaged, or of another version"):
        Ledger(tmp_path)


def test_the_parquet_summary_equals_the_csv(bundle_folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(bundle_folder, write_images(tmp_path / "in", 2), "--text", "polyp", "--box", BOX, "-o", tmp_path / "out")
    table = parquet.read_table(tmp_path / "out/summary.parquet").to_pylist()
    written = rows(tmp_path / "out/summary.csv")
    assert [str(row["area_px"]) for row in table] == [row["area_px"] for row in written]
    assert np.allclose([row["score"] for row in table], [float(row["score"]) for row in written])
