"""What is the same for every image of a batch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .question import Question


@dataclass(frozen=True)
class WebSource:
    """A DICOMweb server.

    Args:
        url: of the service, e.g. "https://pacs.example/dicom-web".
        filters: attributes of the query (QIDO-RS), e.g. ``(("Modality", "CT"),)``.
        token: sent as ``Authorization: Bearer``; with a space, as the whole header ("Basic ..."); "" sends none.
    """

    url: str
    filters: tuple[tuple[str, str], ...] = ()
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class BatchSettings:
    """How a batch answers; it is sent to the processes of a cluster.

    Args:
        bundle: path of the bundle.
        bundle_sha256: of its manifest, which has the hash of every file.
        output: folder of the results.
        device, threads, allow_fallback, trust: as ``Mimo.load``.
        window: centre and width for grey values; None is that of the model.
        masks, text_answer, refine, any_domain: as ``Scan.ask``.
        formats: of clinical objects, names of ``clinical.writer.FORMATS``.
        salt: secret of the site; with it, results are de-identified.
        allow_burned_in, show_patient: as ``clinical.writer.ObjectOptions``.
        web: server of the instances.
    """

    bundle: str
    bundle_sha256: str
    output: Path
    device: str = "auto"
    threads: int | None = None
    allow_fallback: bool = False
    trust: str | None = None
    window: tuple[float, float] | None = None
    masks: bool = True
    text_answer: bool = True
    refine: bool = True
    any_domain: bool = False
    formats: tuple[str, ...] = ()
    salt: str = field(default="", repr=False)
    allow_burned_in: bool = False
    show_patient: bool = False
    web: WebSource | None = None

    def request_json(self, question: Question, mask_sha256: str) -> str:
        """What is asked of an image, as canonical JSON: two requests that could have other results differ.

        Args:
            mask_sha256: hash of the file of the rough mask; "" without one.
        """
        kept = ("window", "masks", "text_answer", "refine", "any_domain", "formats", "allow_burned_in", "show_patient")
        fields = {name: getattr(self, name) for name in kept}
        return json.dumps({**fields, **asdict(question), "mask": mask_sha256}, sort_keys=True)
