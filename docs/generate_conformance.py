"""Write the generated tables of docs/reference/dicom-conformance.md from the code and from objects that it writes.

    python docs/generate_conformance.py            # rewrite the tables
    python docs/generate_conformance.py --check    # exit code 1 if the page is not current

Each table stands between ``<!-- start of NAME -->`` and ``<!-- end of NAME -->``; the rest is written by hand and stays. Two
results of synthetic images that differ in patient, dates, equipment, model and structures are written as every kind of object.
An attribute that is equal in both is fixed, one that equals that of its image is copied, any other is computed. The extra
``clinical`` and ``pacs`` are needed.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "dicom-conformance.md"
sys.path[:0] = [str(REPOSITORY / "tests" / "support" / folder) for folder in ("cases", "data_sets")]

import numpy as np  # noqa: E402
from clinical_cases import ct_result, disc  # noqa: E402
from dicom_series import as_bytes, ct_slice  # noqa: E402
from pydicom.charset import python_encoding  # noqa: E402
from pydicom.dataelem import DataElement  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.pixels import get_decoder  # noqa: E402
from pydicom.uid import UID, UID_dictionary  # noqa: E402

from mimo_runtime.clinical.codes import STRUCTURES, Code  # noqa: E402
from mimo_runtime.clinical.comparison import compare  # noqa: E402
from mimo_runtime.clinical.dicom.capture import write_captures  # noqa: E402
from mimo_runtime.clinical.dicom.document import write_pdf  # noqa: E402
from mimo_runtime.clinical.dicom.follow_up import write_follow_up  # noqa: E402
from mimo_runtime.clinical.dicom.segmentation import write_segmentation  # noqa: E402
from mimo_runtime.clinical.dicom.structure_set import write_structure_set  # noqa: E402
from mimo_runtime.clinical.dicom.structured_report import write_report  # noqa: E402
from mimo_runtime.clinical.report.content import follow_up_lines, report_of  # noqa: E402
from mimo_runtime.clinical.study import ModelIdentity, Structure, StudyResult  # noqa: E402
from mimo_runtime.imageio.dicom_header import NO_IMAGES  # noqa: E402
from mimo_runtime.imageio.encapsulated import gdcm_decodes  # noqa: E402
from mimo_runtime.imageio.reader import read_image  # noqa: E402
from mimo_runtime.services.dicom_node import receiver  # noqa: E402
from mimo_runtime.services.dicom_node.commitment import NO_SUCH_OBJECT  # noqa: E402
from mimo_runtime.services.dicom_node.network import contexts  # noqa: E402
from mimo_runtime.services.dicom_node.settings import NodeSettings, Peer  # noqa: E402

#: Sequences whose items are not listed: trees of content, which templates describe.
_TREES = ("ContentSequence",)
#: Nesting of sequences that tables show.
_DEPTH = 3
_NATIVE, _ITEMS, _COMPUTED = "none needed", "items", "of the result"
#: Attributes that hold the time of writing.
_CLOCK = ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "ContributionDateTime",
          "DateOfSecondaryCapture", "TimeOfSecondaryCapture")  # fmt: skip
#: Starts of names of image classes that no medical image has, and of videos, for whose codecs there is no decoder.
_OTHER_CLASSES = ("DICOS", "Eddy", "Video")
_LABEL_MAP = "Label Map Segmentation Storage"
#: The items, or the elements, that each of the two results has at one place of an object.
Items = tuple[list[Dataset], ...]
Elements = tuple[list[DataElement], ...]


# -- results to write -----------------------------------------------------------------------------------------------------


def results() -> tuple[StudyResult, StudyResult]:
    """Two results that differ in all that a caller decides."""
    values = np.full((40, 40), -700)
    changes = {
        "PatientName": "OTHER^ONE", "PatientID": "2", "PatientBirthDate": "19800203", "PatientSex": "F", "StudyID": "7",
        "StudyDate": "20250607", "StudyTime": "080910", "AccessionNumber": "A7", "ReferringPhysicianName": "DOCTOR^ONE",
        "StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2", "FrameOfReferenceUID": "1.2.3.3", "SeriesNumber": 9,
        "Manufacturer": "Other", "ManufacturerModelName": "Second", "PositionReferenceIndicator": "XY",
        "PixelSpacing": [0.5, 0.6], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SliceThickness": 3.0,
        "StudyDescription": "ABDOMEN", "InstitutionName": "HOSPITAL", "SoftwareVersions": "5", "DeviceSerialNumber": "77",
    }  # fmt: skip
    places = [(4.0 * k, 0.0, 0.0) for k in range(4)]
    images = tuple(
        read_image(as_bytes(ct_slice(k + 7, values, place, SOPInstanceUID=f"1.2.3.9.{k}", **changes)))
        for k, place in enumerate(places)
    )
    structures = (
        Structure("spleen", {0: disc(radius=9), 1: disc(radius=8)}, 0.7, tracking_id="spleen"),
        Structure("kidney cyst", {2: disc(at=(9, 30), radius=4)}, 0.8, False, True, tracking_id="kidney cyst"),
        Structure("liver", {3: disc(at=(30, 30), radius=6)}, 0.8, tracking_id="liver"),
    )
    model = ModelIdentity("other-model", "4.5", "cd" * 32)
    other = StudyResult(images, structures, ("A spleen.",), (), model, "another request", (4.0,) * 4)
    return dataclasses.replace(ct_result(), refusals=("This model does not know 'x'.",)), other


def objects(result: StudyResult) -> dict[str, Dataset]:
    """Every kind of object of a result, by its name on the page."""
    segmentation = write_segmentation(result)
    comparison = compare(result, result)
    return {
        "Segmentation": segmentation,
        "Label map": write_segmentation(result, label_map=True),
        "Structured report": write_report(result, segmentation),
        "Follow-up report": write_follow_up(write_report(result, segmentation), comparison, follow_up_lines(comparison)),
        "Secondary capture": write_captures(result)[0],
        "Encapsulated PDF": write_pdf(result, report_of(result)),
        "Structure set": write_structure_set(result),
    }


# -- tables -----------------------------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines)


def classes_read() -> Iterator[tuple[str, str]]:
    """SOP classes of images, by name."""
    named = {entry[0]: uid for uid, entry in UID_dictionary.items() if entry[0].endswith("Image Storage") and not entry[3]}
    yield from sorted((name, f"`{uid}`") for name, uid in named.items() if not name.startswith(_OTHER_CLASSES))


def transfer_syntaxes() -> Iterator[tuple[str, str, str]]:
    """Those that frames are decoded from with the packages of the extra ``clinical`` and Pillow."""
    for uid, (name, kind, *_) in UID_dictionary.items():
        if kind != "Transfer Syntax":
            continue
        syntax = UID(uid)
        try:
            plugins = {plugin for plugin in get_decoder(syntax).available_plugins if plugin != "gdcm"}
        except NotImplementedError:
            continue
        gdcm = ["GDCM, in a process of its own"] if gdcm_decodes(uid) else []
        decoders = [*gdcm, *sorted(_decoder(plugin) for plugin in plugins if plugin != "mimo-gdcm")]
        if decoders or not syntax.is_encapsulated:
            yield name, f"`{uid}`", ", ".join(decoders) or _NATIVE


def _decoder(plugin: str) -> str:
    return {"pillow": "Pillow", "pyjpegls": "pyjpegls (with highdicom)"}.get(plugin, plugin)


def classes_written(written: dict[str, Dataset]) -> Iterator[tuple[str, ...]]:
    for name, data in written.items():
        uid = UID(data.SOPClassUID)
        syntax = UID(data.file_meta.TransferSyntaxUID).name
        yield (
            name,
            uid.name if uid.name != str(uid) else _LABEL_MAP,
            f"`{uid}`",
            str(data.Modality),
            str(data.SeriesNumber),
            syntax,
        )


def attributes(name: str, pair: tuple[Dataset, Dataset], sources: tuple[Dataset, Dataset]) -> str:
    """The attributes of an object, nested ones with ``>`` as in PS3.3."""
    rows = _rows(([pair[0]], [pair[1]]), sources, 0)
    return f"### {name}\n\n" + table(("attribute", "tag", "VR", "value"), rows)


def _rows(sides: Items, sources: tuple[Dataset, Dataset], depth: int) -> Iterator[tuple[str, str, str, str]]:
    """Of the items that the two results have at one place."""
    for tag in sorted({element.tag for items in sides for item in items for element in item}):
        known = tuple([item[tag] for item in items if tag in item] for items in sides)
        first = next(element for elements in known for element in elements)
        is_tree = first.keyword in _TREES
        value = "the tree of the templates" if is_tree else _sequence(known) if first.VR == "SQ" else _value(known, sources)
        always = all(len(elements) == len(items) for elements, items in zip(known, sides))
        label = f"({tag.group:04X},{tag.elem:04X})"
        yield f"{'>' * depth} {first.keyword}".strip(), label, first.VR, value if always else f"{value}; if known"
        if value == _ITEMS and depth < _DEPTH:
            yield from _rows(tuple([i for e in elements for i in e.value] for elements in known), sources, depth + 1)


def _value(known: Elements, sources: tuple[Dataset, Dataset]) -> str:
    """Where a value comes from: the image, this program always, or the result."""
    first = next(element for elements in known for element in elements)
    if isinstance(first.value, bytes):
        return _COMPUTED
    copied = [str(source.get(first.keyword, None)) for source in sources]
    texts = [{str(element.value) for element in elements} for elements in known]
    if first.keyword in _CLOCK:
        times = [{str(source.StudyDate), str(source.StudyTime)} for source in sources]
        is_study = all(side <= time for side, time in zip(texts, times))
        return "of the study" if is_study else "when it is written"
    if all(side <= {source} for side, source in zip(texts, copied)) and copied[0] != copied[1]:
        return "of the image"
    either = texts[0] | texts[1]
    if texts[0] == texts[1] and len(either) == 1 or first.VR == "CS" and len(either) <= 4:
        values = sorted(either)
        is_empty = values in ([""], ["None"])
        return "empty" if is_empty else ", ".join(f"`{_plain(value)}`" for value in values)
    return _COMPUTED


def _plain(value: str) -> str:
    return "\\".join(re.findall("'([^']*)'", value)) if value.startswith("['") else value[:80]


def _sequence(known: Elements) -> str:
    """The code that a sequence always has, or that its items follow."""
    items = [item for elements in known for element in elements for item in element.value]
    if not items:
        return "empty"
    codes = {_code(item) for item in items if "CodeValue" in item}
    return _ITEMS if not codes else codes.pop() if len(codes) == 1 else _COMPUTED


def _code(item: Dataset) -> str:
    return f'({item.CodeValue}, {item.CodingSchemeDesignator}, "{item.CodeMeaning}")'


# -- content of reports -----------------------------------------------------------------------------------------------------


def items(data: Dataset) -> Iterator[Dataset]:
    """The items of a content tree, from its root."""
    yield data
    for item in data.get("ContentSequence") or ():
        yield from items(item)


def templates(reports: Iterable[Dataset]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for report in reports:
        for item in items(report):
            for template in item.get("ContentTemplateSequence") or ():
                concept = item.ConceptNameCodeSequence[0].CodeMeaning
                found.setdefault(str(template.TemplateIdentifier), f"{template.MappingResource}: {concept}")
    return sorted(found.items())


def concepts(reports: Iterable[Dataset]) -> list[tuple[str, str]]:
    """Concept names of content items, with their kinds of values."""
    found: dict[str, set[str]] = {}
    for report in reports:
        for item in items(report):
            for code in item.get("ConceptNameCodeSequence") or ():
                found.setdefault(_code(code), set()).add(str(item.ValueType))
    return sorted((code, ", ".join(sorted(kinds))) for code, kinds in found.items())


def units(reports: Iterable[Dataset]) -> list[str]:
    """Codes of the units of numbers."""
    found = set[str]()
    for report in reports:
        for item in items(report):
            for value in item.get("MeasuredValueSequence") or ():
                found.add(_code(value.MeasurementUnitsCodeSequence[0]))
    return sorted(found)


def structure_codes() -> Iterator[tuple[str, ...]]:
    def shown(code: Code | None) -> str:
        return f'({code.value}, {code.scheme}, "{code.meaning}")' if code else ""

    for name, code in sorted(STRUCTURES.items()):
        yield name, shown(code.type), shown(code.category), shown(code.site), code.side


# -- the network ------------------------------------------------------------------------------------------------------------


def services() -> Iterator[tuple[str, str, str, str]]:
    """SOP classes beside storage: what the node does as requestor and as acceptor."""
    yield UID(contexts.VERIFICATION).name, f"`{contexts.VERIFICATION}`", "no", "SCP"
    yield UID(contexts.COMMITMENT).name, f"`{contexts.COMMITMENT}`", "SCU and SCP", "SCU and SCP"


def class_name(uid: str) -> str:
    return _LABEL_MAP if uid == contexts.LABEL_MAP else UID(uid).name


def classes_received() -> Iterator[tuple[str, str]]:
    yield from sorted((class_name(uid), f"`{uid}`") for uid in contexts.storage_classes())


def syntaxes_accepted() -> Iterator[tuple[str, str]]:
    for uid in contexts.decodable_syntaxes():
        yield UID(uid).name, f"`{uid}`"


def statuses() -> Iterator[tuple[str, str, str]]:
    """Of the responses to C-STORE."""
    known = (
        (receiver.SUCCESS, "success", "the object is on disk, is held already, or is no image of others and left out"),
        (receiver.FAILURE, "failure", "the object could not be written"),
        (receiver.OUT_OF_RESOURCES, "refused: out of resources", "the data folder or the disk has no room"),
        (receiver.NO_MATCH, "error: data set does not match SOP class", "UIDs of the request and of the object differ"),
        (receiver.NOT_UNDERSTOOD, "error: cannot understand", "the object is damaged, or has no valid UIDs"),
    )
    for status, name, meaning in known:
        yield f"0x{status:04X}", name, meaning
    yield f"0x{NO_SUCH_OBJECT:04X}", "failure reason in reports of storage commitment", "the node does not hold the object"


def association_policies() -> Iterator[tuple[str, str]]:
    defaults = NodeSettings(Path("queue"), Peer("ARCHIVE", "127.0.0.1", 104))
    entity = contexts.application_entity(defaults.aet)
    yield "application context", "`1.2.840.10008.3.1.1.1`"
    yield "AE title, port", f"`{defaults.aet}`, {defaults.port} (`--aet`, `--port`)"
    yield "maximum PDU that is received", f"{contexts.MAX_PDU} bytes"
    yield "associations that are accepted at one time", f"{defaults.max_associations} (`--associations`)"
    yield "associations that are requested at one time", "1"
    yield "asynchronous operations", "none"
    yield "implementation class UID", f"`{entity.implementation_class_uid}`"
    yield "implementation version name", f"`{entity.implementation_version_name}`"
    yield (
        "time to negotiate, to respond, without data",
        (f"{contexts.NEGOTIATE_S:.0f} s, {contexts.RESPOND_S:.0f} s, {contexts.IDLE_S:.0f} s"),
    )


# -- the page ---------------------------------------------------------------------------------------------------------------


def blocks() -> dict[str, str]:
    """The text of every generated part, by name."""
    pair = results()
    written = [objects(result) for result in pair]
    sources = tuple(result.images[0].source.header for result in pair)  # type: ignore[union-attr]
    reports = [data for found in written for data in found.values() if data.Modality == "SR"]
    per_object = [attributes(name, (written[0][name], written[1][name]), sources) for name in written[0]]  # type: ignore[arg-type]
    return {
        "classes read": table(("SOP class", "UID"), classes_read()),
        "classes refused": table(("modality", "what it is"), NO_IMAGES.items()),
        "transfer syntaxes": table(("transfer syntax", "UID", "decoder"), transfer_syntaxes()),
        "character sets": ", ".join(f"`{name}`" for name in sorted(filter(None, python_encoding))),
        "classes written": table(
            ("object", "SOP class", "UID", "modality", "series number", "transfer syntax"), classes_written(written[0])
        ),
        "attributes": "\n\n".join(per_object),
        "structures": table(("structure", "type", "category", "site", "side"), structure_codes()),
        "templates": table(("template", "root"), templates(reports)),
        "concepts": table(("concept name", "value types"), concepts(reports)),
        "units": ", ".join(units(reports)),
        "services": table(("SOP class", "UID", "as requestor", "as acceptor"), services()),
        "association policies": table(("policy", "value"), association_policies()),
        "classes received": table(("SOP class", "UID"), classes_received()),
        "syntaxes accepted": table(("transfer syntax", "UID"), syntaxes_accepted()),
        "statuses": table(("status", "name", "when"), statuses()),
    }


def page() -> str:
    """The text that the page must have. Raises SystemExit for a part without its place on the page, or the reverse."""
    text, parts = PAGE.read_text("utf-8"), blocks()
    places = re.findall(r"<!-- start of (.*?) -->", text)
    if sorted(places) != sorted(parts):
        raise SystemExit(
            f"error: the page has places for {sorted(places)}, generated are {sorted(parts)}. Add what is missing."
        )
    for name, part in parts.items():
        start, end = f"<!-- start of {name} -->", f"<!-- end of {name} -->"
        head, rest = text.split(start)
        text = f"{head}{start}\n\n{part}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    text = page()
    if PAGE.read_text("utf-8") == text:
        return
    if "--check" in sys.argv[1:]:
        sys.exit(f"not current: {PAGE.name}. Run python docs/generate_conformance.py.")
    PAGE.write_text(text, "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
