"""What a candidate loses, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from mimo_calibration.search.loss import MIN_ABSENT, Loss, Reply, compare, macro_dice, presence_summary


def reply(set_name: str, image: str, prompt: str, dice: float | None, present: bool = True, text: str | None = None) -> Reply:
    return Reply(set_name, image, prompt, dice, present, text)


#: Two sets of different size: set a has three images, set b has one.
FULL = [
    reply("a", "1", "box", 0.9), reply("a", "1", "text", 0.8, text="one"), reply("a", "1", "absent", None, False, "none"),
    reply("a", "2", "box", 0.7), reply("a", "2", "text", 0.6, text="two"), reply("a", "2", "absent", None, False, "none"),
    reply("a", "3", "box", 0.5), reply("b", "1", "box", 0.4), reply("b", "1", "text", 0.2, text="three"),
]  # fmt: skip


def changed(**changes: dict) -> list[Reply]:
    """:data:`FULL` with some replies changed, by their index as ``rN``."""
    return [Reply(**{**r.__dict__, **changes.get(f"r{k}", {})}) for k, r in enumerate(FULL)]


def test_identical_replies_lose_nothing():
    loss = compare(FULL, list(FULL), ("box", "text"))
    assert loss.dice == {"box": 0.0, "text": 0.0} and loss.presence_f1 == 0.0 and loss.text_agreement == 1.0
    assert loss.interval == {"box": (0.0, 0.0), "text": (0.0, 0.0)}
    assert loss.questions == len(FULL) and loss.worst == 0.0
    assert loss.within(1e-9) and loss.no_worse(loss)


def test_the_loss_is_the_mean_of_sets_and_not_of_images():
    # Box: set a loses 0.3 in one of three images, set b loses 0.2 in its only one.
    loss = compare(FULL, changed(r0={"dice": 0.6}, r7={"dice": 0.2}))
    assert loss.dice["box"] == pytest.approx((0.3 / 3 + 0.2) / 2)
    assert loss.dice["text"] == 0.0 and loss.worst == loss.dice["box"]
    low, high = loss.interval["box"]
    # Images are drawn anew within their set: a loses 0 to 0.3, b always 0.2.
    assert 0.1 <= low < loss.dice["box"] < high <= 0.25
    gained = compare(changed(r0={"dice": 0.6}, r7={"dice": 0.2}), FULL)
    assert gained.dice["box"] == pytest.approx(-loss.dice["box"])


def test_macro_dice_is_the_mean_of_the_sets_means():
    assert macro_dice(FULL) == pytest.approx({"box": ((0.9 + 0.7 + 0.5) / 3 + 0.4) / 2, "text": (0.7 + 0.2) / 2})
    assert macro_dice([r for r in FULL if r.prompt == "absent"]) == {}


def test_texts_agree_to_the_letter_or_not_at_all():
    # Of five texts, those of absent names among them, two differ.
    loss = compare(FULL, changed(r1={"text": "One"}, r2={"text": "some"}))
    assert loss.text_agreement == pytest.approx(3 / 5)
    silent = [Reply(**{**r.__dict__, "text": None}) for r in FULL]
    assert compare(silent, silent).text_agreement is None


def test_presence_f1_is_that_of_absence():
    # Asked by name: three are there, two are not. The candidate calls one of each wrong: 1 hit, 1 miss, 1 false alarm.
    loss = compare(FULL, changed(r2={"present": True}, r4={"present": False}))
    assert loss.presence_f1 == pytest.approx(1.0 - 2 * 1 / (2 * 1 + 2)) and loss.flips == 2
    assert loss.named == 5 and loss.changed == pytest.approx(2 / 5)
    # What is asked for by box is not asked whether it is there.
    unasked = compare(FULL, changed(r0={"present": False}))
    assert unasked.presence_f1 == 0.0 and unasked.flips == 0


def named(present: int, absent: int, unknown: int = 0) -> list[Reply]:
    """Right replies to so many names that are there and are not, and to names of which the data says nothing."""
    return (
        [reply("a", str(k), "text", 0.5) for k in range(present)]
        + [reply("a", str(k), "absent", None, False) for k in range(absent)]
        + [reply("a", str(k), "unknown", None, k % 2 == 0) for k in range(unknown)]
    )


def flipped(replies: list[Reply], *where: int) -> list[Reply]:
    return [Reply(**{**r.__dict__, "present": r.present is (k not in where)}) for k, r in enumerate(replies)]


def test_without_names_known_to_be_absent_the_decisions_that_changed_count():
    """F1 would be 0 or 1: a reference that is wrong once would let everything pass, a right one would refuse one change."""
    right = named(120, 0, unknown=80)
    wrong_once = flipped(right, 3)
    for reference in (right, wrong_once):
        for where, passes in (((0,), True), ((0, 150), True), ((0, 1, 150), False), (tuple(range(120)), False)):
            loss = compare(reference, flipped(reference, *where), ("text",))
            # One percent of 200 decisions is twice the tolerance.
            assert loss.within(0.005) is passes and not loss.by_f1
            assert loss.flips == len(where) and loss.changed == pytest.approx(len(where) / 200)
            assert loss.presence_f1 == 0.0
            assert loss.to_dict()["presence_by"] == "changed" and loss.to_dict()["presence_changed"] == len(where) / 200
            assert f"presence changed in {len(where) / 2:.1f} %" in loss.summary() and "F1" not in loss.summary()
            assert "% of the presence decisions changed" in presence_summary(loss.to_dict())


def test_with_enough_absent_names_f1_counts():
    for absent, by_f1 in ((MIN_ABSENT, True), (MIN_ABSENT - 1, False)):
        reference = named(10, absent)
        loss = compare(reference, flipped(reference, 0), ("text",))
        assert loss.by_f1 is by_f1 and loss.presence_f1 == pytest.approx(1 - 2 * absent / (2 * absent + 1))
        assert loss.presence == (loss.presence_f1 if by_f1 else pytest.approx(1 / (10 + absent)))
    assert compare(reference, reference, ("text",)).to_dict()["presence_by"] == "changed"
    assert presence_summary(compare(named(1, 8), named(1, 8)).to_dict()) == "presence F1 loses +0.0000"
    # An unknown name is no part of an F1.
    loss = compare(named(10, 8, 20), flipped(named(10, 8, 20), 20), ("text",))
    assert loss.by_f1 and loss.presence_f1 == 0.0 and loss.flips == 1


def test_a_reference_that_finds_nothing_absent_has_no_f1_to_lose():
    reference = flipped(named(10, 20), *range(10, 30))
    assert not compare(reference, flipped(reference, *range(30)), ("text",)).within(0.005)
    assert compare(reference, reference, ("text",)).within(0.005)


def test_a_kind_of_prompt_that_was_not_asked_is_not_within_the_tolerance():
    assert compare(FULL, list(FULL), ("box", "text")).within(0.005)
    loss = compare(FULL, list(FULL))
    assert loss.unasked == ("point", "mask") and not loss.within(1.0) and loss.to_dict()["unasked"] == ["point", "mask"]
    assert "no question by point, mask" in loss.summary()
    only_absent = [r for r in FULL if r.prompt == "absent"]
    assert not compare(only_absent, only_absent, ()).within(1.0)


def test_other_questions_cannot_be_compared():
    renamed = (changed(r0={field: value}) for field, value in (("prompt", "mask"), ("image", "9"), ("set_name", "b")))
    for other in (FULL[:-1], FULL[::-1], *renamed):
        with pytest.raises(ValueError, match="different questions"):
            compare(FULL, other)


def loss(box: float = 0.0, f1: float = 0.0, text: float | None = 1.0, flips: int = 2) -> Loss:
    return Loss({"box": box, "text": -0.1}, {"box": (box, box), "text": (0, 0)}, f1, text, 10, flips)


@pytest.mark.parametrize(
    ("candidate", "passes"),
    [
        (loss(), True),
        (loss(box=0.005), True),
        (loss(box=0.0051), False),
        (loss(box=-0.5), True),
        (loss(f1=0.01), True),
        (loss(f1=0.0101), False),
        (loss(text=0.98), True),
        (loss(text=0.979), False),
        (loss(text=0.0), False),
        (loss(text=None), True),
    ],
)
def test_the_tolerance_holds_for_every_prompt_presence_and_text(candidate, passes):
    assert candidate.within(0.005) is passes


def test_a_few_decisions_may_flip_where_one_is_more_than_the_tolerance():
    assert loss(f1=0.2, flips=1).within(0.005, flips=1) and not loss(f1=0.2, flips=1).within(0.005)
    assert not loss(f1=0.2, flips=2).within(0.005, flips=1)
    # That excuses nothing else.
    assert not loss(box=0.01, flips=0).within(0.005, flips=1) and not loss(text=0.5, flips=0).within(0.005, flips=1)


def test_the_least_agreement_of_texts_is_a_setting():
    assert loss(text=0.9).within(0.005, text=0.9) and not loss(text=0.9).within(0.005, text=0.91)


@pytest.mark.parametrize(
    ("candidate", "other", "holds"),
    [
        (loss(box=0.1, f1=0.2, text=0.5), loss(box=0.1, f1=0.2, text=0.5), True),
        (loss(box=0.1004), loss(box=0.1), True),
        (loss(box=0.1006), loss(box=0.1), False),
        (loss(f1=0.0006), loss(), False),
        (loss(text=0.9), loss(text=0.8), True),
        (loss(text=0.8), loss(text=0.9), False),
        (loss(text=0.0), loss(text=0.9), False),  # nothing agrees
        (loss(text=0.9), loss(text=0.0), True),
        (loss(text=None), loss(text=None), True),
    ],
)
def test_no_worse_allows_a_margin_and_no_lost_text(candidate, other, holds):
    assert candidate.no_worse(other) is holds


def test_summary_and_report_say_the_same():
    loss_ = Loss({"box": 0.0123, "text": -0.004}, {"box": (0.01, 0.02), "text": (-0.1, 0.1)}, 0.02, 0.975, 40)
    assert loss_.summary() == "Dice box -0.0123, Dice text +0.0040, presence F1 -0.0200, same text 97.5 %"
    assert loss_.to_dict() == {
        "dice": {"box": 0.0123, "text": -0.004}, "ci95": {"box": [0.01, 0.02], "text": [-0.1, 0.1]}, "presence_f1": 0.02,
        "text_agreement": 0.975, "questions": 40, "presence_changed": 0.0, "presence_by": "f1", "unasked": [],
    }  # fmt: skip
    assert "text" not in loss(text=None).summary().split("F1")[1]
