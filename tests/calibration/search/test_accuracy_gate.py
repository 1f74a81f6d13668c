"""The questions of the accuracy gate."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_sets import read_rows, write_rows

from mimo_calibration.data import draw_images
from mimo_calibration.search.accuracy_gate import LONGER, AccuracyGate
from mimo_calibration.search.loss import PROMPTS, Reply, compare, macro_dice
from mimo_runtime.data.dataset import read_datasets
from mimo_runtime.imageio.image import ScanImage


class Model:
    """Answers everything with the same mask; remembers what it was asked."""

    def __init__(self, fill: float, more: str = "") -> None:
        self.fill, self.more, self.asked, self.letters = fill, more, [], 0

    def open(self, image: ScanImage) -> SimpleNamespace:
        height, width = image.height, image.width

        def ask(text="", boxes=(), points=(), mask=None, *, text_answer=True):
            self.asked.append((text, tuple(boxes), tuple(points), mask is not None, text_answer))
            drawn = np.zeros((height, width), bool)
            drawn[: round(self.fill * height)] = True
            finding = SimpleNamespace(query=0, mask=drawn, present=True, presence=0.9, score=0.5, iou=0.5)
            written = f"{text} {self.fill}{self.more}" if text_answer else ""
            return SimpleNamespace(findings=(finding,), text=written, generated=written)

        def stream(*, should_stop, **request):
            answer, written = ask(**request), ""
            for letter in answer.text:
                if should_stop():
                    break
                written += letter
                self.letters += 1
                yield letter
            answer.text = answer.generated = written
            yield answer

        return SimpleNamespace(ask=ask, stream=stream)


def make_gate(folder, **options) -> AccuracyGate:
    datasets = read_datasets(folder)
    return AccuracyGate(draw_images(datasets, "val", 16, 0, least=8), datasets, **options)


def test_every_model_is_asked_the_same_and_gets_what_it_deserves(data):
    gate = make_gate(data)
    first, second, other = Model(1.0), Model(1.0), Model(0.0)
    replies = [gate.run(model) for model in (first, second, other)]
    assert first.asked == second.asked == other.asked
    assert replies[0] == replies[1]
    masks = {r.image: [] for r in replies[0]}
    for r in replies[0]:
        masks[r.image].append(r)
    for data_set, record in gate.images.items:
        _, labels = record.load()
        shares = {name: (labels == k).mean() for k, name in record.classes.items() if (labels == k).any()}
        texts = [r for r in masks[data_set.key(record)] if r.prompt == "text"]
        # The whole image against a class of this share: 2 s / (1 + s); two classes at most.
        expected = [2 * s / (1 + s) for s in list(shares.values())[:2]]
        assert [r.dice for r in texts] == pytest.approx(expected)
    assert all(r.dice == 0.0 for r in replies[2] if r.prompt in PROMPTS)
    lost = compare(replies[0], replies[2])
    assert lost.dice == pytest.approx(macro_dice(replies[0])) and lost.text_agreement == 0.0


def test_a_text_that_is_much_longer_than_the_reference_ends_early(data):
    gate, model, endless = make_gate(data), Model(1.0), Model(1.0, " and so on" * 200)
    reference = gate.run(model)
    assert gate.run(model, reference) == reference
    whole, short = gate.run(Model(1.0, " and so on" * 200)), gate.run(endless, reference)
    assert compare(reference, short) == compare(reference, whole) and compare(reference, short).text_agreement == 0.0
    texts = [r.text for r in reference if r.text is not None]
    assert endless.letters <= sum(2 * len(text) + LONGER + 1 for text in texts)
    assert all(s.dice == w.dice and s.present == w.present for s, w in zip(short, whole))


def test_only_names_get_a_text_and_absent_names_are_absent(data):
    gate, model = make_gate(data), Model(0.5)
    replies = gate.run(model)
    kinds = {r.prompt for r in replies}
    assert kinds == {*PROMPTS, "absent"}
    assert all((r.text is not None) == (r.prompt in ("text", "absent")) for r in replies)
    assert all((r.dice is None) == (r.prompt == "absent") for r in replies)
    records = {data_set.key(record): record for data_set, record in gate.images.items}
    for r in replies:
        if r.prompt == "absent":
            assert r.text.rpartition(" ")[0] not in records[r.image].classes.values()
    assert [text_answer for *_, text_answer in model.asked].count(True) == sum(r.text is not None for r in replies)


def test_less_can_be_asked(data):
    full = make_gate(data).run(Model(0.5))
    few = make_gate(data, prompts=("box", "text"), text=False, max_classes=1).run(Model(0.5))
    assert {r.prompt for r in few} == {"box", "text", "absent"} and all(r.text is None for r in few)
    assert sum(r.prompt == "box" for r in few) == len({r.image for r in few if r.prompt == "box"})
    assert sum(r.prompt == "absent" for r in few) == sum(r.prompt == "absent" for r in full)
    everything = make_gate(data, max_classes=None, max_parts=None).run(Model(0.5))
    assert sum(r.prompt == "text" for r in everything) > sum(r.prompt == "text" for r in full)


def test_progress_reaches_the_end(data):
    calls = []
    make_gate(data, progress=lambda done, total: calls.append((done, total))).run(Model(0.5))
    assert calls == [(k, 16) for k in range(17)]


def test_images_without_anything_in_them_still_count_for_presence(own_data):
    write_rows(own_data, [
        {**row, "classes": {}, "mask": None} if row["split"] == "val" else row for row in read_rows(own_data)
    ])  # fmt: skip
    replies = make_gate(own_data).run(Model(0.5))
    assert {r.prompt for r in replies} == {"absent"} and len(replies) == 16
    nothing = compare(replies, replies)
    # No Dice was measured, so nothing is known.
    assert nothing.dice == {} and nothing.worst == 0.0 and nothing.unasked == PROMPTS and not nothing.within(1.0)


def one_class(folder) -> None:
    """The set names one class, in every image."""
    rows = []
    for row in read_rows(folder):
        labels = np.asarray(Image.open(folder / row["mask"]))
        Image.fromarray((labels > 0).astype(np.uint8)).save(folder / row["mask"])
        rows.append({**row, "classes": {"1": "Nodule"}})
    write_rows(folder, rows)


def test_where_no_name_is_surely_absent_one_is_asked_that_the_model_knows(own_data):
    one_class(own_data)
    entities = ("nodule", "liver", "polyp")
    gate, model = make_gate(own_data, entities=entities), Model(0.5)
    replies = gate.run(model)
    unknown = [r for r in replies if r.prompt == "unknown"]
    assert len(unknown) == 16 and not any(r.prompt == "absent" for r in replies)
    # Only whether it is there is asked: its text counts for nothing.
    assert all(r.dice is None and r.text is None for r in unknown)
    asked = {text for text, boxes, points, masked, text_answer in model.asked if text and not text_answer}
    assert asked == {"liver", "polyp"}  # what the image names is asked for anyway
    assert gate.run(Model(0.5)) == replies
    loss = compare(replies, [Reply(**{**r.__dict__, "present": r.prompt != "unknown"}) for r in replies])
    assert loss.flips == 16 and loss.named == 16 + sum(r.prompt == "text" for r in replies) and not loss.by_f1
    assert {r.prompt for r in make_gate(own_data).run(Model(0.5))} == set(PROMPTS)


def test_names_that_surely_are_absent_go_first(data):
    assert make_gate(data, entities=("liver",)).run(Model(0.5)) == make_gate(data).run(Model(0.5))


def test_whatever_changes_the_questions_changes_the_identity(data, own_data):
    base = make_gate(data).identity
    others = [make_gate(data, entities=("liver",)), make_gate(data, text=False), make_gate(data, prompts=("box",))]
    # Which names are absent for sure depends on the regions of images that were not drawn, too.
    write_rows(own_data, [{**row, "region": "brain"} if row["split"] == "train" else row for row in read_rows(own_data)])
    there = AccuracyGate(make_gate(data).images, read_datasets(own_data))
    assert len({base, *(gate.identity for gate in others), there.identity}) == 5 and make_gate(data).identity == base
