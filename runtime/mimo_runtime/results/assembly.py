"""From a mask prediction and a draft to an answer: the text is edited to agree with the masks, the findings follow the text."""

from __future__ import annotations

from ..postprocessing.mask_prediction import MaskPrediction
from ..preprocessing.prompts import Prompt
from ..text.markup import strip_query_ids
from ..text.post_edit import edit_answer
from .answer import Answer
from .findings import assemble_findings


def assemble_answer(
    prompt: Prompt, prediction: MaskPrediction | None, draft: str | None, finish_reason: str | None = None
) -> Answer:
    """The answer without timings and engines.

    Args:
        prompt: the request.
        prediction: None if no masks were asked for; the text is then the draft.
        draft: the decoder's markup with query numbers, complete; None if no text was asked for.
        finish_reason: of the draft.
    """
    markup = edit_answer(draft, prompt.text, prediction) if draft and prediction else draft
    return Answer(
        text=strip_query_ids(markup or ""),
        findings=assemble_findings(prediction, markup, prompt) if prediction else (),
        finish_reason=finish_reason,
        generated=strip_query_ids(draft or ""),
    )
