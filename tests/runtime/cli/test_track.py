"""``mimo-run track`` as a user calls it, with a model that segments what is bright."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bright_discs import bright_mimo, disc
from click.testing import CliRunner, Result
from PIL import Image

from mimo_runtime.cli.commands import main
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.pipeline import Mimo

FRAMES = [*[disc(24 + i, 30) for i in range(4)], *[disc(200, 30)] * 2, *[disc(28, 30)] * 2]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(Mimo, "load", staticmethod(lambda *_, **__: bright_mimo()))
    first, *others = map(Image.fromarray, FRAMES)
    first.save(tmp_path / "clip.tiff", save_all=True, append_images=others)
    return tmp_path / "clip.tiff"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["track", "bundle", *map(str, arguments)])


def test_a_clip_gives_the_state_and_the_mask_of_every_frame(clip: Path, tmp_path: Path) -> None:
    result = run(clip, "--box", "13,19,35,41", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [f["status"] for f in report["frames"]] == ["tracked"] * 4 + ["lost"] * 2 + ["found again", "tracked"]
    assert (report["tracked"], report["lost"], report["found_again"], report["model"]) == (5, 2, 1, "bright")
    assert report["frames_per_s"] > 0 and json.loads((tmp_path / "out/answer.json").read_text()) == report
    for frame, pixels in zip(report["frames"], FRAMES):
        assert (frame["mask"] is None) == (frame["pixels"] == 0) == (frame["box"] is None)
        if frame["mask"]:
            mask = np.asarray(Image.open(tmp_path / "out" / frame["mask"])) > 0
            assert dice(mask, pixels.max(axis=2) > 100) > 0.85 and int(mask.sum()) == frame["pixels"]
    assert len(list((tmp_path / "out/masks").iterdir())) == 6
    again = run(clip, "--box", "13,19,35,41", "-o", tmp_path / "out")
    assert again.exit_code == 2 and "out" in again.stderr
    plain = run(clip, "--box", "13,19,35,41", "-o", tmp_path / "out", "--force")
    assert "frames 0 to 3: tracked" in plain.stdout and "frames 4 to 5: lost, it is not present" in plain.stdout


def test_a_target_is_followed_from_the_frame_of_its_prompt(clip: Path) -> None:
    report = json.loads(run(clip, "--frame", 2, "--point", "26,30", "--json").stdout)
    assert [f["frame"] for f in report["frames"]] == list(range(2, 8)) and report["frames"][0]["status"] == "tracked"


def test_masks_are_written_as_clinical_objects(clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    result = run(clip, "--text", "polyp", "-o", tmp_path / "out", "--write", "coco")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out/objects/coco.json").read_text())
    assert len({a["image_id"] for a in written["annotations"]}) == 6 and written["categories"][0]["name"] == "polyp"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "nothing says what to track. Give --box, --point, --mask or --text"),
        (["--text", " "], "--text is empty"),
        (["--box", "13,19,35,41", "--frame", "8"], "there is no frame 8. Use 0 to 7"),
        (["--box", "13,19,35,410"], "is outside"),
        (["--text", "What do you see?"], "cannot be tracked"),
        (["--text", "polyp", "--write", "seg"], "--write without --output"),
    ],
)
def test_a_wrong_request_is_one_line(clip: Path, options: list[str], error: str) -> None:
    result = run(clip, *options)
    assert result.exit_code == 2 and error in result.stderr and result.stderr.count("\n") == 1, result.output


@pytest.fixture
def video(clip: Path) -> Path:
    pytest.importorskip("av")
    from videos import write_video

    times = [0.0, 0.04, 0.08, 0.2, 0.24, 0.28, 0.5, 0.54]
    return write_video(clip.with_name("clip.mp4"), FRAMES, times)


def test_a_video_gives_times_masks_and_an_overlay(video: Path, tmp_path: Path) -> None:
    from mimo_runtime.video.reader import open_video

    arguments = ["--box", "13,19,35,41", "-o", tmp_path / "out", "--overlay", tmp_path / "overlay.mp4"]
    result = run(video, *arguments, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [f["status"] for f in report["frames"]] == ["tracked"] * 4 + ["lost"] * 2 + ["found again", "tracked"]
    assert [f["time_s"] for f in report["frames"]] == pytest.approx([0.0, 0.04, 0.08, 0.2, 0.24, 0.28, 0.5, 0.54])
    for frame, pixels in zip(report["frames"], FRAMES):
        if frame["mask"]:
            mask = np.asarray(Image.open(tmp_path / "out" / frame["mask"])) > 0
            assert dice(mask, pixels.max(axis=2) > 100) > 0.85
    assert report["overlay"] == "H.264"
    overlay = list(open_video(tmp_path / "overlay.mp4"))
    assert [f.source.time_s for f in overlay if f.source] == pytest.approx([f["time_s"] for f in report["frames"]], abs=0.001)
    again = run(video, *arguments[:2], *arguments[4:])
    assert again.exit_code == 2 and "the file of the video exists" in again.stderr
    plain = run(video, *arguments, "--force")
    assert plain.exit_code == 0 and "overlay in H.264 (libx264)" in plain.stdout


def test_an_overlay_of_a_part_begins_at_its_first_frame(video: Path, tmp_path: Path) -> None:
    from mimo_runtime.video.reader import open_video

    options = ["--frame", 2, "--point", "26,30", "--overlay", tmp_path / "o.mkv", "--json"]
    times = {}
    for source in (video, video.with_name("clip.tiff")):
        report = json.loads(run(source, *options, "--force").stdout)
        assert [f["frame"] for f in report["frames"]] == list(range(2, 8))
        times[source.suffix] = [f.source.time_s for f in open_video(tmp_path / "o.mkv") if f.source]
    assert times[".mp4"] == pytest.approx([0, 0.12, 0.16, 0.2, 0.42, 0.46], abs=0.001)
    assert times[".tiff"] == pytest.approx([i / 25 for i in range(6)], abs=0.001)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--frame", "8"], "there is no frame 8. Use 0 to 7"),
        (["--window", "40,400"], "--window is for grey values, and SOURCE is a video. Leave it out"),
        (["-o", "out", "--write", "coco"], "objects refer to image files, and SOURCE is a video"),
        (["--overlay", "out.avi"], "cannot be written as '.avi'. Use .mp4, .mov, .mkv"),
    ],
)
def test_a_wrong_request_about_a_video_is_one_line(
    video: Path, options: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(video.parent)
    result = run(video, "--box", "13,19,35,41", *options)
    assert result.exit_code == 2 and error in result.stderr and result.stderr.count("\n") == 1, result.output
