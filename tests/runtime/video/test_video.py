"""Videos that the test encodes are read frame by frame, and written with masks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from bright_discs import box_around, bright_mimo, disc
from videos import turn_video, write_video

from mimo_runtime.errors import DamagedImageError, ImageError, RequestError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.tracking.overlay import draw_tracked, overlay_video
from mimo_runtime.video.reader import open_video
from mimo_runtime.video.writer import ENCODERS, VideoWriter, check_video_output

av = pytest.importorskip("av")
FRAMES = [disc(16 + 3 * i, 24 + i) for i in range(10)]


def centre(pixels: np.ndarray) -> tuple[float, float]:
    """``(x, y)`` of what is bright."""
    rows, columns = np.nonzero(pixels.max(axis=2) > 100)
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx264"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.webm", "libvpx"),
    ],
)
def test_frames_come_in_the_order_of_their_presentation(tmp_path: Path, name: str, codec: str) -> None:
    video = open_video(write_video(tmp_path / name, FRAMES, codec=codec))
    assert video.size == (64, 64) and video.rate == pytest.approx(25, abs=0.5)
    frames = list(video)
    assert len(frames) == len(FRAMES) and video.stated_frames in (len(FRAMES) - 1, len(FRAMES), len(FRAMES) + 1)
    for number, (frame, pixels) in enumerate(zip(frames, FRAMES)):
        assert frame.source is not None and frame.source.frame == number
        assert frame.source.time_s == pytest.approx(number / 25, abs=0.002)
        assert np.allclose(centre(frame.pixels), centre(pixels), atol=0.5)
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 6


def test_a_part_of_a_video_keeps_its_numbers(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4", FRAMES))

    def numbers(part) -> list[int]:
        return [frame.source.frame for frame in part]

    assert numbers(video[3:]) == list(range(3, 10)) and numbers(video[3:][1:3]) == [4, 5] and numbers(video[:2]) == [0, 1]
    assert numbers(video[2:8][:99]) == list(range(2, 8)) and numbers(video) == numbers(video)
    with pytest.raises(ImageError, match="there is no frame 10. Use 0 to 9"):
        list(video[10:])
    for part in (slice(-1, None), slice(None, None, 2)):
        with pytest.raises(ImageError, match="has a step or counts from the end"):
            video[part]


def test_a_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 0.3, 0.9, 0.95, 1.0, 2.0, 2.04, 3.5]
    video = open_video(write_video(tmp_path / "a.mp4", FRAMES, times))
    assert [frame.source.time_s for frame in video] == pytest.approx(times, abs=0.001)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_the_file_states(tmp_path: Path, matrix, turned) -> None:
    wide = [np.ascontiguousarray(frame[:48]) for frame in FRAMES[:2]]
    path = write_video(tmp_path / "a.mp4", wide)
    turn_video(path, matrix)
    video = open_video(path)
    frame, expected = next(iter(video)), turned(wide[0])
    assert frame.pixels.shape == expected.shape == (*video.size, 3)
    assert np.allclose(centre(frame.pixels), centre(expected), atol=0.5)


def test_a_turn_that_is_no_quarter_turn_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES[:2])
    turn_video(path, (1, 1, -1, 1))
    with pytest.raises(ImageError, match="a.mp4 is turned by an angle that is no quarter turn"):
        open_video(path)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_a_cut_off_file_is_refused_when_it_is_opened(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, FRAMES, codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DamagedImageError, match=f"{name} is cut off"):
        open_video(path)


def test_a_frame_with_errors_ends_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", FRAMES)
    data = bytearray(path.read_bytes())
    late = len(data) * 3 // 4
    data[late : late + 200] = bytes(np.random.default_rng(1).integers(0, 256, 200, np.uint8))
    path.write_bytes(data)
    seen = []
    with pytest.raises(DamagedImageError, match=r"frame [1-9] of .*a.mkv (is damaged|cannot be decoded: the file is damaged)"):
        for frame in open_video(path):
            seen.append(frame)
    assert 0 < len(seen) < len(FRAMES)


def test_other_files_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ImageError, match="text.mp4 is not a video that can be read"):
        open_video(tmp_path / "text.mp4")
    (tmp_path / "text.txt").write_text("no video")
    with pytest.raises(ImageError, match="text.txt is not a video that can be read. Use an MP4"):
        open_video(tmp_path / "text.txt")
    with pytest.raises(ImageError, match="does not exist"):
        open_video(tmp_path / "missing.mp4")
    (tmp_path / "list.mpg").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(ImageError, match="list.mpg is not a video that can be read"):
        open_video(tmp_path / "list.mpg")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"a.mp4 is a video, which needs PyAV. pip install 'mimo-edge\[video\]'"):
        open_video(path)


def test_a_target_is_tracked_in_a_video_file(tmp_path: Path) -> None:
    path, mimo = write_video(tmp_path / "a.mp4", FRAMES), bright_mimo()
    for frames in (path, str(path), mimo.open_video(path)):
        results = list(mimo.track(frames, boxes=[box_around(16, 24)]))
        assert [t.status for t in results] == ["tracked"] * len(FRAMES)
        assert [t.time_s for t in results] == pytest.approx([i / 25 for i in range(len(FRAMES))])
        assert min(dice(t.mask, pixels.max(axis=2) > 100) for t, pixels in zip(results, FRAMES)) > 0.85
    with pytest.raises(ImageError, match="a video has no window"):
        mimo.track(path, boxes=[box_around(16, 24)], window=(40, 400))
    assert [t.time_s for t in mimo.track(FRAMES[:2], boxes=[box_around(16, 24)])] == [None, None]


@pytest.mark.parametrize("encoder", [e for e in ENCODERS if e.name != "libopenh264"])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_written_video_has_the_frames_and_their_times(tmp_path: Path, encoder, name: str) -> None:
    odd, times = [frame[:63, :61] for frame in FRAMES], [0.0, 0.04, 0.08, 0.3, 0.9, 0.95, 1.0, 2.0, 2.04, 3.5]
    with (tmp_path / name).open("wb") as file, VideoWriter(file, Path(name).suffix, (63, 61), encoder) as writer:
        for pixels, time in zip(odd, times):
            writer.add(pixels, time)
    frames = list(open_video(tmp_path / name))
    assert [frame.source.time_s for frame in frames] == pytest.approx(times, abs=0.001)
    for frame, pixels in zip(frames, odd):
        assert frame.pixels.shape == (64, 62, 3)
        assert np.abs(frame.pixels[:63, :61].astype(int) - pixels).mean() < 6


def test_an_overlay_shows_the_mask_and_is_complete_or_not_there(tmp_path: Path) -> None:
    mimo = bright_mimo()
    frames = [*FRAMES[:3], disc(200, 30)]
    with overlay_video(tmp_path / "out.mp4", "polyp") as video:
        for tracked, pixels in zip(mimo.track(frames, boxes=[box_around(16, 24)]), frames):
            video.add(tracked, mimo.open(pixels).image)
    assert video.encoder.codec == "H.264"
    shown = list(open_video(tmp_path / "out.mp4"))
    assert len(shown) == 4 and [frame.source.time_s for frame in shown] == pytest.approx([0, 0.04, 0.08, 0.12])
    inside = FRAMES[0].max(axis=2) > 100
    assert np.abs(shown[0].pixels[inside].astype(int) - FRAMES[0][inside]).mean() > 20
    with pytest.raises(ZeroDivisionError), overlay_video(tmp_path / "other.mp4", "polyp") as video:
        video.add(next(mimo.track(frames, boxes=[box_around(16, 24)])), mimo.open(frames[0]).image)
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_caption_says_that_a_target_is_lost() -> None:
    frames = [np.pad(frame, ((0, 64), (0, 128), (0, 0)), constant_values=10) for frame in (disc(30, 30), disc(200, 30))]
    first, lost = bright_mimo().track(frames, boxes=[box_around(30, 30)])
    drawn = draw_tracked(frames[0], first, "polyp"), draw_tracked(frames[1], lost, "polyp")
    assert lost.status == "lost" and all((d != f).any() for d, f in zip(drawn, frames))
    assert not np.array_equal(drawn[0][64:], drawn[1][64:]) and np.array_equal(drawn[1][:64], frames[1][:64])


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written as '.avi'. Use .mp4, .mov, .mkv"):
        check_video_output(tmp_path / "a.avi")
    (tmp_path / "a.mp4").write_bytes(b"earlier")
    with pytest.raises(RequestError, match="exists. Choose another, or replace it with --force"):
        check_video_output(tmp_path / "a.mp4")
    check_video_output(tmp_path / "a.mp4", force=True)
    assert (tmp_path / "a.mp4").read_bytes() == b"earlier"
