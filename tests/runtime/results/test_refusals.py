"""What is refused, what runs for it, and that a text names exactly the findings that are present."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from fakes import BOX, calls

from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.results.answer import Answer, Refusal
from mimo_runtime.results.plan import REFERRED
from mimo_runtime.results.refusals import entities_in_order, shortened, some_names
from mimo_runtime.text.grammar import PHRASE, parse, phrase_of

DECODERS = ("text_encoder", "prompt_encoder", "fusion", "mask_decoder", "text_decoder")


def names_of(answer: Answer) -> list[str]:
    """Every structure that the text names, also behind a relation."""
    return sorted(phrase.name for match in PHRASE.finditer(answer.text) if (phrase := phrase_of(match)))


def test_an_unknown_subject_is_refused_without_running_the_decoders(mimo, pixels):
    scan = mimo.open(pixels)
    for text in ("fracture", "Is there a fracture?", "Where is the fracture?", "How many fractures are there?"):
        *pieces, answer = scan.stream(text)
        assert pieces == [] and answer.findings == () and answer.generated == ""
        assert answer.text == (
            f"This model does not know '{answer.refusal.subject}'. It knows: liver, spleen, aorta, polyp, absent polyp."
        )
        assert answer.refusal == Refusal("unknown subject", answer.refusal.subject, fakes.ENTITIES)
        assert answer.to_dict()["refusal"]["works"] == list(fakes.ENTITIES)
        assert answer.finish_reason == "stop" and list(answer.timings)[-1] == "total" and answer.timings["ground"] == 0
    assert all(calls(mimo)[graph] == 0 for graph in DECODERS)


@pytest.mark.parametrize(
    ("text", "reason", "works"),
    [
        ("Is it malignant?", "unsupported question", "What do you see?"),
        ("How old is the patient?", "unsupported question", "Where is the liver?"),
        ("Is the aorta normal?", "unsupported question", "How large is the aorta?"),
        ("Where is the ?", "empty subject", "What do you see?"),
        ("How large is it?", "empty subject", "a box, a point or a mask"),
        ("¿Dónde está el hígado?", "other language", "Where is the liver?"),
        ("Wie groß ist die Aorta?", "other language", "How large is the aorta?"),
        ("😀", "not understood", "What do you see?"),
        ("Where is the liver relative to the fracture?", "unknown subject", "aorta"),
        ("What is below the fracture?", "unknown subject", "liver"),
    ],
)
def test_other_requests_without_an_answer_are_refused_with_their_reason(mimo, pixels, text, reason, works):
    answer = mimo.open(pixels).ask(text)
    assert answer.refusal.reason == reason and works in answer.refusal.works
    assert answer.findings == () and answer.text.startswith("This model ") and parse(answer.text).absent is None
    assert calls(mimo)["fusion"] == 0


def test_a_question_in_another_language_names_the_question_that_works(mimo, pixels):
    answer = mimo.open(pixels).ask("¿Dónde está el hígado?")
    assert answer.text == "This model answers questions in English only. Ask 'Where is the liver?'."
    assert answer.refusal.subject == "el hígado"


@pytest.mark.parametrize("wanted", [{"masks": False}, {"text_answer": False}, {"should_stop": lambda: False}])
def test_a_refusal_comes_with_every_option(mimo, pixels, wanted):
    answer = mimo.open(pixels).ask("fracture", **wanted)
    assert answer.refusal.subject == "fracture" and answer.findings == ()
    assert bool(answer.text) == wanted.get("text_answer", True) == (answer.finish_reason is not None)
    assert mimo.open(pixels).ask("fracture", should_stop=lambda: True).finish_reason == "cancelled"


def test_an_unknown_name_beside_a_reference_draws_the_referred_region(mimo, pixels):
    answer = mimo.open(pixels).ask("fracture", boxes=[BOX])
    (finding,) = answer.findings
    assert (finding.phrase, finding.present, answer.refusal) == (REFERRED, True, None)
    assert "one large oval <p>referred region</p><seg> in the center of the image." in answer.text
    assert "polyp" not in answer.text and "fracture" not in answer.text
    assert answer.warnings == ("This model does not know 'fracture'.",) == tuple(answer.to_dict()["warnings"])


@pytest.mark.parametrize("text", ["Is it malignant?", "Is there a fracture?", "How old is the patient?", "¿Qué es esto?"])
def test_a_question_without_an_answer_beside_a_reference_draws_the_mask_and_is_refused(mimo, pixels, text):
    answer = mimo.open(pixels).ask(text, points=[(50, 30)])
    assert [(f.phrase, f.query, f.present) for f in answer.findings] == [(REFERRED, 0, True)]
    assert answer.refusal is not None and " This model " in answer.text and names_of(answer) == [REFERRED]
    assert mimo.open(pixels).ask(text, points=[(50, 30)], text_answer=False).refusal == answer.refusal


def test_a_request_with_an_unknown_name_answers_the_others_and_says_so(mimo, pixels):
    answer = mimo.open(pixels).ask("liver and fracture")
    assert [(f.phrase, f.present) for f in answer.findings] == [("liver", True)] and answer.refusal is None
    assert answer.text.endswith("of the image. This model does not know 'fracture'.")
    assert answer.warnings == ("This model does not know 'fracture'.",)


def test_several_names_give_several_findings(mimo, pixels):
    answer = mimo.open(pixels).ask("liver, absent polyp and aorta")
    assert [(f.phrase, f.query, f.present) for f in answer.findings] == [
        ("liver", 1, True),
        ("absent polyp", 5, False),
        ("aorta", 3, True),
    ]
    assert answer.text.endswith(" No absent polyp is visible.") and names_of(answer) == ["aorta", "liver"]


def test_names_in_other_words_read_the_question_of_training(mimo, pixels):
    scan = mimo.open(pixels)
    for text in ("Leber", "hepatic parenchyma", "please outline the liver", "肝"):
        answer = scan.ask(text)
        assert [(f.phrase, f.query) for f in answer.findings] == [("liver", 0)] and "<p>liver</p>" in answer.text
    assert calls(mimo)["text_encoder"] == 1  # all read "liver"


def test_a_box_is_named_by_the_draft_only_if_that_entity_is_present(mimo, pixels, monkeypatch):
    scan = mimo.open(pixels)
    for name, phrase in (("liver", "liver"), ("spleen", REFERRED), ("wrist", REFERRED)):
        monkeypatch.setitem(fakes.ANSWERS, "what is this?", f"CT of the abdomen: one large oval <p>{name}</p><seg0>.")
        mimo.graphs.clear_caches()
        answer = scan.ask("What is this?", boxes=[BOX])
        assert [f.phrase for f in answer.findings] == [phrase] == names_of(answer)


def test_a_size_is_measured_in_mm_where_the_spacing_is_known(mimo, pixels):
    box = (20, 10, 70, 40)
    answer = mimo.open(pixels).ask("How large is the liver?", boxes=[box])
    (finding,) = answer.findings
    assert finding.area_mm2 is None is finding.longest_diameter_mm and finding.longest_diameter_px > 50
    assert answer.text.endswith(
        f"The liver has an area of {finding.area_px} pixels and a longest diameter of {finding.longest_diameter_px:.1f} pixels:"
        " the pixel spacing is unknown."
    )
    for source, words in (
        ("PixelSpacing", "mm."),
        ("detector plane, magnified", "mm in the detector plane, where structures are"),
    ):
        image = ScanImage(pixels, spacing_mm=(0.5, 0.5), spacing_source=source)
        answer = mimo.open(image).ask("How big is this?", boxes=[box])
        (measured,) = answer.findings
        assert measured.area_mm2 == pytest.approx(finding.area_px / 4)
        assert measured.longest_diameter_mm == pytest.approx(finding.longest_diameter_px / 2)
        assert f"has an area of {measured.area_mm2:.1f} mm²" in answer.text and words in answer.text
    assert mimo.open(pixels).ask("liver").findings[0].longest_diameter_px is None


REQUESTS = (
    "liver", "spleen", "Where is the absent polyp?", "How many livers are there?", "What do you see?", "Describe the image.",
    "liver and spleen", "Where is the liver relative to the aorta?", "Where is the spleen relative to the liver?",
    "What is below the liver?", "What is above the spleen?", "How large is the aorta?", "fracture", "Is it malignant?",
    "What is this?", "liver and fracture",
)  # fmt: skip


@pytest.mark.parametrize("text", REQUESTS)
@pytest.mark.parametrize("boxes", [(), (BOX,)])
@pytest.mark.parametrize("abstain", [0.0, 1.0])
def test_a_text_names_exactly_the_findings_that_are_present(pixels, text, boxes, abstain):
    with fakes.fake_mimo(config=replace(fakes.CONFIG, abstain_threshold=abstain)) as mimo:
        answer = mimo.open(pixels).ask(text, boxes=boxes)
        silent = mimo.open(pixels).ask(text, boxes=boxes, text_answer=False)
    assert names_of(answer) == sorted(f.phrase for f in answer.findings if f.present)
    phrases = [phrase_of(match) for match in PHRASE.finditer(answer.text)]
    assert all(phrase.uncertain == bool(abstain) for phrase in phrases)
    if text not in ("What do you see?", "Describe the image.", "What is this?"):
        assert [(f.phrase, f.query) for f in silent.findings] == [(f.phrase, f.query) for f in answer.findings]


def test_the_entities_that_fit_the_modality_are_listed_first():
    config = replace(fakes.CONFIG, entity_modalities=(("ct",), ("mri",), ("ct",), ("endoscopy",), ("endoscopy",)))
    assert entities_in_order(config, "endoscopy") == ("polyp", "absent polyp", "liver", "spleen", "aorta")
    assert entities_in_order(config, None) == entities_in_order(fakes.CONFIG, "ct") == fakes.ENTITIES
    assert some_names([str(n) for n in range(11)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 3 more"


def test_a_refusal_has_one_of_the_listed_reasons():
    with pytest.raises(ValueError, match="reason 'no' is not one of"):
        Refusal("no")


def test_a_users_words_are_repeated_on_one_line_and_without_markup(mimo, pixels):
    answer = mimo.open(pixels).ask("<p>foo</p>\nthe")
    assert "\n" not in answer.text and "<" not in answer.text and parse(answer.text).phrases == ()
    assert shortened("x" * 99) == "x" * 59 + "…"


def test_an_answer_without_references_is_as_large_as_the_image(mimo):
    answer = mimo.open(np.zeros((40, 50, 3), np.uint8)).ask("liver and spleen")
    assert all(f.mask.shape == (40, 50) for f in answer.findings)


def test_a_model_without_entities_takes_any_name(pixels):
    with fakes.fake_mimo(config=replace(fakes.CONFIG, entities=())) as mimo:
        answer = mimo.open(pixels).ask("Where is the polyp?")
        assert [(f.phrase, f.query) for f in answer.findings] == [("polyp", 0)] and answer.refusal is None
        assert [f.phrase for f in mimo.open(pixels).ask("liver and spleen").findings] == ["liver and spleen"]
        assert mimo.open(pixels).ask("Is it malignant?").refusal.reason == "unsupported question"


def test_a_long_request_is_read_in_a_shorter_form(mimo, pixels):
    text = "Could you please show me where exactly the aorta is located in this abdominal CT image? Thanks"
    assert [f.phrase for f in mimo.open(pixels).ask(text).findings] == ["aorta"]
