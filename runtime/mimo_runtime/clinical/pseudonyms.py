"""What stands for a patient and for a user's words in a de-identified result.

Pseudonyms are keyed hashes (HMAC-SHA256) with the secret of the site. The same patient has the same one in all results of a
secret. Without the secret it cannot be found by trying identifiers, which a plain hash of short identifiers allows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..utils.hashing import keyed_digest

if TYPE_CHECKING:
    from ..preprocessing.prompts import Prompt
    from ..results.answer import Answer
    from .study import StudyResult

#: What stands for the words of a request.
LEFT_OUT = "(left out)"
#: Sentences that repeat words of the request, as ``results.refusals`` writes them; repeated words have no apostrophe.
_REPEATED = re.compile(r"(This model (?:does not \w+ |needs [^']*))'[^']*'")


def patient_key(values: Mapping[str, str]) -> tuple[str, ...]:
    """What tells a patient from others: issuer and identifier; without one, name and birth date; without these, the study.

    Args:
        values: of ``IssuerOfPatientID``, ``PatientID``, ``PatientName``, ``PatientBirthDate`` and ``StudyInstanceUID``; ""
            where unknown.
    """
    known = {keyword: " ".join(value.split()) for keyword, value in values.items()}
    if known.get("PatientID"):
        return ("identifier", known.get("IssuerOfPatientID", ""), known["PatientID"])
    name, born = known.get("PatientName", "").strip("^ ").casefold(), known.get("PatientBirthDate", "")
    return ("name", name, born) if name else ("study", known.get("StudyInstanceUID", ""))


def patient_pseudonym(salt: str, key: tuple[str, ...]) -> str:
    """16 letters and digits for a patient: 80 bits of a keyed hash, in base 32.

    Args:
        salt: secret of the site.
        key: of :func:`patient_key`.
    """
    return base64.b32encode(keyed_digest(salt, "patient", *key)[:10]).decode()


def without_words(text: str) -> str:
    """A sentence of an answer without the words of the request that it repeats."""
    return _REPEATED.sub(rf"\g<1>'{LEFT_OUT}'", text)


def answer_without_words(prompt: Prompt, answer: Answer) -> tuple[Prompt, Answer]:
    """A prompt and its answer without the words of the request."""
    refusal = answer.refusal and replace(answer.refusal, subject="")
    warnings = tuple(map(without_words, answer.warnings))
    hidden = replace(answer, text=without_words(answer.text), refusal=refusal, warnings=warnings)
    return replace(prompt, text=LEFT_OUT if prompt.text else ""), hidden


def anonymous_result(result: StudyResult, salt: str) -> StudyResult:
    """The result with the secret, without words of the request and without identifiers that a person gave.

    Equal requests and identifiers of one secret stay equal, so that two examinations can be compared.
    """

    def hidden(kind: str, text: str) -> str:
        return keyed_digest(salt, kind, text).hex()[:32] if text else ""

    structures = tuple(replace(s, person_id=hidden("structure", s.person_id)) for s in result.structures)
    sentences, refusals = (tuple(map(without_words, texts)) for texts in (result.sentences, result.refusals))
    request = hidden("request", result.request)
    return replace(
        result, salt=salt, structures=structures, sentences=sentences, refusals=refusals, request=request
    )  # fmt: skip
