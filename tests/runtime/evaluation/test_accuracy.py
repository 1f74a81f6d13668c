"""evaluate() with models whose answers are known: a perfect one, an empty one, a noisy one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from oracle import SETS, Oracle, OracleScan, half, write_sets
from PIL import Image

from mimo_benchmarks.suites.relations import measure_relations
from mimo_benchmarks.suites.robustness import measure_robustness
from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_runtime.errors import RequestError
from mimo_runtime.evaluation import metrics, subgroups, summary
from mimo_runtime.evaluation.accuracy import evaluate
from mimo_runtime.evaluation.questions import MAX_INSTANCES, AbsentNames, ImageQuestions
from mimo_runtime.evaluation.report import overview
from mimo_runtime.evaluation.text_slots import read_slots
from mimo_runtime.results.answer import Refusal
from mimo_runtime.text import grammar


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return read_datasets(write_sets(tmp_path_factory.mktemp("sets")))


def test_a_perfect_model_is_perfect(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test")
    assert set(result) == {
        "sets", "macro", "baselines", "absent", "ece", "text", "per_class", "meta", "confidence", "presence", "subgroups",
        "text_sets", "text_generated", "absent_text", "contradictions", "box_gain", "guarantees",
    }  # fmt: skip
    assert set(result["macro"]) == {"box", "point", "mask", "text", "text+box"}
    for name in SETS:
        for prompt, found in result["sets"][name].items():
            assert found["dice"] == found["iou"] == 1 and found["ci95"] == [1, 1], (name, prompt)
    assert all(found["dice"] == 1 for found in result["macro"].values())
    for part in (result["absent"], result["absent"]["within"], result["absent"]["across"]):
        assert part["precision"] == part["recall"] == part["f1"] == part["auc"] == 1
    assert result["ece"] == 0
    assert result["text"] == {"finding": 1, "modality": 1, "location": 1, "size": 1, "count": 1}
    assert result["text_generated"] == result["text"]
    said = result["absent_text"]
    assert said == {
        "share": 1, "generated": 1, "n": 27, "within": {"share": 1, "generated": 1, "n": 7},
        "across": {"share": 1, "generated": 1, "n": 20},
    }  # fmt: skip
    assert [result["contradictions"][kind]["n"] for kind in ("present", "absent")] == [10 + 5 + 4 + 4, 27]
    assert result["contradictions"]["share"] == result["contradictions"]["generated"] == 0
    assert result["text_sets"] == {name: {**result["text"], "n": n} for name, n in zip(SETS, (10, 5, 4, 4))}
    for part in result["confidence"].values():  # no risk at any coverage, and predicted IoU as good as the truth
        assert part["aurc"] == part["iou_mae"] == part["risk_at_threshold"] == 0 and part["coverage_at_threshold"] == 1
        assert part["iou_pearson"] is None  # nothing varies
    # Trivial baselines see the same boxes and rough masks, and are good but not perfect on disks.
    assert 0.8 < result["baselines"]["ellipse"]["dice"] < 1 and 0.6 < result["baselines"]["input_mask"]["dice"] < 1
    json.loads(json.dumps(result, allow_nan=False))


def test_masks_by_box_are_compared_with_the_ellipses_of_the_same_targets(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test", prompts=["box"])
    gain, ellipse = result["box_gain"], result["baselines"]["ellipse"]
    assert gain is not None and gain["n"] == ellipse["n"] and set(gain["sets"]) == set(SETS)
    assert gain["dice"] == pytest.approx(1 - ellipse["dice"]) and gain["ci95"][0] <= gain["dice"] <= gain["ci95"][1]
    for name, part in gain["sets"].items():
        assert part["dice"] == pytest.approx(1 - ellipse["sets"][name]["dice"])
    assert evaluate(Oracle(sets), sets, "test", prompts=["point"])["box_gain"] is None


def test_a_target_has_the_full_extent_of_its_class(tmp_path: Path) -> None:
    (folder,) = [write_sets(tmp_path) / "organs"]
    lines = [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]
    lines[0]["attributes"]["union"] = {"2": [2, 3]}  # the first image shows classes 2 and 3
    (folder / "dataset.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (data,) = read_datasets([folder])
    targets = {name: whole for name, whole, _ in ImageQuestions(Oracle([data]), data, data.records[0], 0).targets()}
    _, labels = data.records[0].load()
    np.testing.assert_array_equal(targets["left kidney"], labels > 0)
    np.testing.assert_array_equal(targets["aorta"], labels == 3)


def test_counts_of_questions(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test")
    found = result["sets"]
    assert {p: found["organs"][p]["n"] for p in found["organs"]} == dict.fromkeys(summary.MASK_PROMPTS, 10)
    # Instances of a many-instance class by place, a few per image; the whole class by name.
    assert found["cells"]["box"]["n"] == found["cells"]["text+box"]["n"] == 5 * MAX_INSTANCES
    assert found["cells"]["text"]["n"] == 5
    assert found["polyps"]["text"]["n"] == 4  # a negative image has no target
    # Within: one organ is missing in each of five images, and one image of "polyps" and "guts" shows nothing.
    assert result["absent"]["within"]["n"] == 7 and result["absent"]["within"]["n_present"] == 10 + 4 + 4
    assert result["absent"]["across"]["n"] == 20 and result["absent"]["n"] == 27
    assert result["per_class"]["organs"]["aorta"]["box"]["n"] == sum(1 for k in range(5) if k % 3 != 2)
    assert result["meta"] == {
        "split": "test", "images": 20, "images_per_set": dict.fromkeys(sorted(SETS), 5), "limit": None, "seed": 0,
        "refused_questions": 0,
        "prompts": list(summary.PROMPTS), "model": "oracle", "sha256": "0123456789ab", "engine": "fake",
        "presence_threshold": 0.5, "presence_temperature": 1.25, "entity_threshold": 0.7, "abstain_threshold": 0.6,
        "crop_scale": 3.5, "full_image_weight": 0.2, "coverage": None, "miss_rate": None, "interval": metrics.INTERVAL,
    }  # fmt: skip


def test_an_empty_model_scores_nothing(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets, np.zeros_like), sets, "test")
    assert all(found["dice"] == found["iou"] == 0 for found in result["macro"].values())
    absent = result["absent"]
    assert absent["recall"] == 1 and absent["precision"] == pytest.approx(absent["n"] / (absent["n"] + absent["n_present"]))
    assert absent["auc"] == 0.5
    assert result["ece"] == pytest.approx(absent["n_present"] / (absent["n"] + absent["n_present"]))


def test_a_noisy_model_lies_between(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets, half), sets, "test")
    for found in (*result["macro"].values(), *(f for s in result["sets"].values() for f in s.values())):
        assert 0.55 < found["dice"] < 0.75 and found["iou"] == pytest.approx(found["dice"] / (2 - found["dice"]), abs=0.01)
        assert found["ci95"][0] <= found["dice"] <= found["ci95"][1]
        assert found["iou_ci95"][0] <= found["iou"] <= found["iou_ci95"][1]
    for prompt, found in result["macro"].items():
        assert found["dice"] == pytest.approx(np.mean([s[prompt]["dice"] for s in result["sets"].values()]))
        # Its scores are the true IoUs, all below its threshold: it is confident of nothing.
        part = result["confidence"][prompt]
        assert part["n"] == part["n_drawn"] == found["n"] and part["iou_mae"] == 0 and part["iou_spearman"] == pytest.approx(1)
        assert part["threshold"] == 0.6 and part["coverage_at_threshold"] == 0 and part["risk_at_threshold"] is None
        assert part["risk_coverage"]["coverage"][-1] == 1
        assert part["risk_coverage"]["risk"][-1] == pytest.approx(1 - found["dice"])
    assert result["confidence"]["all"]["n"] == sum(found["n"] for found in result["macro"].values())


def test_prompts_are_what_they_are_called(sets: list[Dataset]) -> None:
    oracle = Oracle(sets)
    evaluate(oracle, sets, "test")
    kinds = {a.kind for a in oracle.asked}
    assert kinds == {"box", "point", "mask", "text", "text+box"}
    # Only what is asked by name alone, present or absent, is answered in words, and once.
    names = {f"{r.set_name}/{r.image.name}": set(r.classes.values()) for d in sets for r in d.records}
    for a in oracle.asked:
        assert a.text_answer == (a.kind == "text")
    assert {a.text in names[a.image] for a in oracle.asked if a.text_answer} == {True, False}
    by_name = [(a.image, a.text) for a in oracle.asked if a.kind == "text"]
    assert len(by_name) == len(set(by_name))
    # text+box adds nothing but the name to the same boxes.
    boxes = {k: sorted((a.image, a.boxes) for a in oracle.asked if a.kind == k) for k in ("box", "text+box")}
    assert boxes["box"] == boxes["text+box"] and len(set(boxes["box"])) > 20


def test_questions_depend_on_seed_and_image_alone(sets: list[Dataset]) -> None:
    def asked(data: list[Dataset], **options) -> dict[str, list]:
        oracle = Oracle(sets)
        evaluate(oracle, data, "test", **options)
        found: dict[str, list] = {}
        for a in oracle.asked:
            mask = None if a.mask is None else a.mask.tobytes()
            found.setdefault(a.image, []).append((a.text, a.kind, a.boxes, a.points, mask))
        return found

    everything = asked(sets)
    assert asked(sets) == everything == asked(sets[::-1])
    assert asked(sets, seed=1) != everything
    few = asked(sets, limit=2)
    assert len(few) == 2 * len(SETS) and all(everything[image] == questions for image, questions in few.items())
    points = asked(sets, prompts=["point"])
    assert all([q for q in everything[image] if q[1] == "point"] == questions for image, questions in points.items())


def test_absent_names_are_surely_absent(sets: list[Dataset]) -> None:
    by_name = {d.name: d for d in sets}
    names = AbsentNames(sets)
    within, across = names.of(by_name["organs"].records[0])
    assert within == ["liver"] and across == ["cell nucleus", "diverticulum", "polyp"]
    within, across = names.of(by_name["polyps"].records[0])
    assert within == ["polyp"]
    assert across == ["aorta", "cell nucleus", "left kidney", "liver"]  # not the diverticulum: it may be in any colon
    assert AbsentNames([by_name["cells"]]).of(by_name["cells"].records[0]) == ([], [])


def test_parts_that_were_not_asked_for(sets: list[Dataset]) -> None:
    result = evaluate(Oracle(sets), sets, "test", prompts=["box"])
    assert set(result["macro"]) == {"box"} and set(result["baselines"]) == {"ellipse"}
    assert result["absent"]["f1"] is None and result["absent"]["n"] == 0 and result["ece"] is None
    assert result["text"] == dict.fromkeys(summary.TEXT_SLOTS) and result["text_sets"] == {}
    assert set(result["confidence"]) == {"box", "all"} and result["presence"]["bins"] == []
    assert {p for part in result["subgroups"].values() for found in part.values() for p in found} == {"box"}
    oracle = Oracle(sets)
    silent = evaluate(oracle, sets, "test", prompts=["text", "absent"], text=False)
    assert not any(a.text_answer for a in oracle.asked)
    assert silent["absent_text"]["n"] == silent["contradictions"]["n"] == 0 and silent["absent_text"]["share"] is None
    assert silent["text"]["finding"] is None and silent["macro"]["text"]["dice"] == 1 and silent["ece"] == 0


def test_names_that_the_model_refuses_count_as_absent_predictions(sets: list[Dataset]) -> None:
    class Foreign(Oracle):
        """Knows no class of the data."""

        def open(self, pixels: np.ndarray) -> OracleScan:
            scan = super().open(pixels)
            refusal = Refusal("unknown subject", "x", ("y",))
            scan.ask = lambda *args, **options: SimpleNamespace(
                text="This model does not know 'x'. It knows: y.", generated="", findings=(), refusal=refusal
            )
            return scan

    result = evaluate(Foreign(sets), sets, "test", prompts=["text", "absent"], text=True)
    assert result["macro"]["text"]["dice"] == 0 == result["text"]["finding"] == result["contradictions"]["share"]
    questions = sum(n["text"]["n"] for n in result["sets"].values()) + result["absent_text"]["n"]
    assert result["meta"]["refused_questions"] == questions > 0
    assert f"{questions} questions by name refused" in overview(result)


class Wordy(Oracle):
    """Finds what is there, and says ``text`` whatever it is asked; the decoder wrote ``generated``."""

    def __init__(self, sets: list[Dataset], text: str, generated: str) -> None:
        super().__init__(sets)
        self.said = {"text": text, "generated": generated}

    def open(self, pixels: np.ndarray) -> OracleScan:
        scan = super().open(pixels)

        def ask(*args, **options):
            return SimpleNamespace(**self.said, findings=OracleScan.ask(scan, *args, **options).findings)

        scan.ask = ask
        return scan


def test_what_is_said_of_absent_targets_is_measured(sets: list[Dataset]) -> None:
    """A decoder that always writes the same loses, whatever the findings tell."""
    polyp = "Endoscopy of the colon: one large oval <p>polyp</p><seg0> in the center."
    result = evaluate(Wordy(sets, polyp, "Image: no Polyp is visible."), sets, "test", prompts=["text", "absent"])
    asked = [r for d in sets for r in d.records]
    assert result["absent"]["f1"] == 1
    assert result["absent_text"]["share"] == 0 and 0 < result["absent_text"]["generated"] < 1
    assert result["absent_text"]["within"]["generated"] == pytest.approx(1 / 7)  # the polyp, once
    against = result["contradictions"]
    assert against["absent"] == {"share": 1, "generated": 0, "n": 27} and against["present"]["share"] == 0
    assert against["present"]["generated"] == 1 and against["share"] == pytest.approx(27 / (27 + 23)) and len(asked) == 20
    nothing = evaluate(Wordy(sets, "CT: no finding.", ""), sets, "test", prompts=["text", "absent"])
    assert nothing["contradictions"]["present"]["share"] == 1 and nothing["contradictions"]["absent"]["share"] == 0


def test_one_bad_file_is_reported_before_the_first_question(sets: list[Dataset], tmp_path: Path) -> None:
    """In the last image of the last set, so that everything else would be lost."""
    good = sets[-1].records[-1]
    cut, other = tmp_path / "cut.png", tmp_path / "other.png"
    cut.write_bytes(good.image.read_bytes()[:-2000])
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(other)
    flaws = {
        "cut.png is damaged": {"image": cut},
        "without a name": {"classes": {7: "polyp"}},
        "other.png is 10x10": {"mask": other},
        "other.png is 10x10 *": {"instances": other},
    }
    for message, change in flaws.items():
        bad = replace(sets[-1], records=(*sets[-1].records[:-1], replace(good, **change)))
        for test in (evaluate, measure_robustness, measure_relations):
            oracle = Oracle(sets)
            with pytest.raises(RequestError, match=message.rstrip(" *")):
                test(oracle, [*sets[:-1], bad], "test")
            assert not oracle.asked, test


def test_names_and_regions_are_compared_without_case(sets: list[Dataset]) -> None:
    def shouted(data: Dataset) -> Dataset:
        records = [
            replace(r, classes={k: n.upper() for k, n in r.classes.items()}, region=r.region.upper()) for r in data.records
        ]
        return replace(data, name="shouted", records=tuple(replace(r, set_name="shouted") for r in records))

    polyps, guts = (next(d for d in sets if d.name == name) for name in ("polyps", "guts"))
    names = AbsentNames([polyps, shouted(polyps), shouted_guts := replace(shouted(guts), name="loud")])
    assert shouted_guts.class_names == ["DIVERTICULUM"]
    # A polyp by another spelling is no other name, and the diverticulum may be in any colon.
    assert names.of(polyps.records[1]) == ([], []) and names.of(polyps.records[0]) == (["polyp"], [])
    mixed = replace(polyps, records=(replace(polyps.records[1], classes={1: "Polyp"}), *polyps.records[2:]))
    assert AbsentNames([mixed]).of(mixed.records[0]) == ([], [])


def test_requests_that_cannot_be_met(sets: list[Dataset]) -> None:
    with pytest.raises(RequestError, match="unknown prompt type 'circle'"):
        evaluate(Oracle(sets), sets, "test", prompts=["circle"])
    with pytest.raises(RequestError, match="no image in split 'val'"):
        evaluate(Oracle(sets), sets, "val")


def test_masks_of_another_shape_are_a_bug(sets: list[Dataset]) -> None:
    with pytest.raises(ValueError, match="shape"):
        evaluate(Oracle(sets, lambda mask: mask[:-1]), sets, "test", prompts=["box"], limit=1)


def test_progress_ends_at_the_total(sets: list[Dataset]) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(Oracle(sets), sets, "test", prompts=["box"], limit=1, progress=lambda *step: seen.append(step))
    assert seen == [(k, 4) for k in range(5)]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Endoscopy of the colon: one large oval <p>polyp</p><seg> in the center.", set(summary.TEXT_SLOTS)),
        ("Endoscopy of the colon: two large oval <p>polyps</p><seg> in the center.", set(summary.TEXT_SLOTS) - {"count"}),
        ("CT of the colon: one small oval <p>Polyp</p><seg> in the center.", {"finding", "location", "count"}),
        ("Endoscopy of the colon: one large <p>liver</p><seg> in the upper left.", {"modality", "size", "count"}),
        ("MRI: one small <p>liver</p><seg>, large <p>polyp</p><seg> in the center.", {"finding", "location", "size"}),
        ("Endoscopy of the colon: no polyp is visible.", {"modality"}),
        ("", set()),
    ],
)
def test_slots_of_text_answers(answer: str, right: set[str]) -> None:
    phrase = grammar.Phrase("polyp", 0, "one", "large", "oval", "center")
    found = read_slots(answer, grammar.Description("endoscopy", "colon", (phrase,)))
    assert {slot for slot, fine in found.items() if fine} == right


def test_subgroups_are_the_same_targets_in_other_heaps(sets: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subgroups, "FEWEST_CASES", 1)  # the sets are small
    result = evaluate(Oracle(sets, half), sets, "test")
    groups = result["subgroups"]
    assert set(groups["modality"]) == {"ct", "microscopy", "endoscopy"}
    # "series" has numbers; the truth values are written as in JSON.
    assert set(groups["attribute"]) == {"contrast=false", "contrast=true", "plane=axial"}
    for prompt, found in result["macro"].items():
        assert sum(g[prompt]["n"] for g in groups["modality"].values()) == found["n"]
        assert sum(g[prompt]["n"] for g in groups["size_quartile"].values()) == found["n"]
        assert groups["attribute"]["plane=axial"][prompt] == {key: found[key] for key in ("dice", "n", "ci95")}
        assert groups["modality"]["microscopy"][prompt]["dice"] == result["sets"]["cells"][prompt]["dice"]
        two = [result["sets"][name][prompt]["dice"] for name in ("organs", "guts")]
        assert groups["modality"]["ct"][prompt]["dice"] == pytest.approx(np.mean(two))


def test_a_model_without_a_configuration_has_no_thresholds(sets: list[Dataset]) -> None:
    oracle = Oracle(sets)
    oracle.config, oracle.info = None, {"id": "bare"}
    result = evaluate(oracle, sets, "test", limit=1)
    assert result["meta"]["sha256"] is None and result["presence"]["temperature"] is None
    found = result["confidence"]["all"]
    assert found["threshold"] is found["coverage_at_threshold"] is found["risk_at_threshold"] is None


def test_presence_summary_pairs_absent_questions_with_present_ones_of_the_same_sets() -> None:
    rows = [
        summary.Presence("a", "present", True, 0.9),
        summary.Presence("a", "within", True, 0.8),  # a false alarm
        summary.Presence("b", "present", False, 0.1),  # a miss, in a set without "within" questions
        summary.Presence("b", "across", False, 0.2),
    ]
    found = summary.summarise_presence(rows)
    assert found["absent"]["within"] == {"precision": None, "recall": 0, "f1": 0, "auc": 1, "n": 1, "n_present": 1}
    assert found["absent"]["across"] == {"precision": 0.5, "recall": 1, "f1": 2 / 3, "auc": 0, "n": 1, "n_present": 1}
    assert found["absent"]["f1"] == 0.5 and found["absent"]["auc"] == 0.5 and found["absent"]["n"] == 2
    assert found["ece"] == pytest.approx((0.1 + 0.8 + 0.9 + 0.2) / 4)
    assert found["presence"]["ece"] == found["ece"] and [b["n"] for b in found["presence"]["bins"]] == [1, 1, 1, 1]


def test_intervals_resample_patients_not_slices() -> None:
    """Slices of one patient agree: with four patients the interval is wide, however many slices each has."""
    means = enumerate((0.2, 0.5, 0.7, 0.9))
    rows = [summary.Overlap("a", "x", "box", f"{p}/{k}", d, d, case=str(p)) for p, d in means for k in range(20)]
    of_cases = summary.over_sets(rows)[0]["a"]["ci95"]
    of_images = summary.over_sets([row._replace(case="") for row in rows])[0]["a"]["ci95"]
    assert of_cases[1] - of_cases[0] > 3 * (of_images[1] - of_images[0])


def test_frames_of_one_file_are_different_records(sets: list[Dataset]) -> None:
    data = sets[0]
    record = data.records[0]
    keys = [data.key(replace(record, frame=k)) for k in (0, 1, 2)]
    assert keys[0] == record.image.relative_to(data.root).as_posix() and len(set(keys)) == 3
