"""The report as a PDF of A4 pages."""

from __future__ import annotations

import io
from html import escape

from ...errors import RequestError
from ...utils.untyped import Untyped
from .content import ReportPicture, StudyReport

_AUTHOR = "mimo-edge"


def pdf_of(report: StudyReport) -> bytes:
    """The bytes of the file: the same for the same report. Raises RequestError where reportlab is missing."""
    try:
        from reportlab.lib.pagesizes import A4
        from reportlab.lib.units import mm
        from reportlab.platypus import SimpleDocTemplate
    except ImportError:
        raise RequestError("the PDF needs reportlab", "pip install reportlab, which the extra clinical names") from None
    stream = io.BytesIO()
    margin = 15 * mm
    document = SimpleDocTemplate(
        stream, pagesize=A4, leftMargin=margin, rightMargin=margin, topMargin=margin, bottomMargin=margin,
        title=report.title, author=_AUTHOR, creator=_AUTHOR, subject=report.mark, invariant=1,
    )  # fmt: skip

    def footer(canvas: Untyped, _: object) -> None:
        canvas.setFont("Helvetica", 7)
        canvas.drawString(margin, 8 * mm, report.mark)
        canvas.drawRightString(A4[0] - margin, 8 * mm, f"page {canvas.getPageNumber()}")

    document.build(_story(report, A4[0] - 2 * margin), onFirstPage=footer, onLaterPages=footer)
    return stream.getvalue()


def _story(report: StudyReport, width: float) -> list[object]:
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import KeepTogether, Paragraph, Spacer

    styles = getSampleStyleSheet()
    text, heading, small = styles["BodyText"], styles["Heading2"], styles["Heading4"]

    def lines(*items: str) -> list[object]:
        return [Paragraph(escape(item), text) for item in items]

    story: list[object] = [Paragraph(escape(report.title), styles["Title"]), Paragraph(f"<b>{escape(report.mark)}</b>", text)]
    story += [Paragraph(f"<b>{escape(name)}</b>: {escape(value)}", text) for name, value in report.facts]
    if report.sentences or report.refusals:
        story += [Paragraph("Answer", heading), *lines(*report.sentences)]
        story += lines(*(f"Not answered: {refusal}" for refusal in report.refusals))
    story += [Paragraph("Images", heading), *_pictures(report.pictures, width), Paragraph("Measurements", heading)]
    for row in report.rows:
        title = f"{row.name} (uncertain, review needed)" if row.needs_review else row.name
        story.append(KeepTogether([Paragraph(escape(title), small), *lines("; ".join(row.values))]))
    if not report.rows:
        story += lines("No structure.")
    if report.changes:
        story += [Paragraph("Follow-up", heading), *lines(*report.follow_up)]
        for change in report.changes:
            title = f"{change.name}: {change.matched_by}"
            story.append(KeepTogether([Paragraph(escape(title), small), *lines("; ".join(change.values))]))
    return [*story, Paragraph("Limits", heading), *lines(*report.limits), Spacer(1, 6)]


def _pictures(pictures: tuple[ReportPicture, ...], width: float) -> list[object]:
    """Two beside each other, at their own proportions."""
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Image, Paragraph, Table

    text = getSampleStyleSheet()["BodyText"]
    column = (width - 12) / 2
    cells = []
    for picture in pictures:
        height = column * picture.height / picture.width
        shrink = min(1.0, 300 / height)
        image = Image(io.BytesIO(picture.png), column * shrink, height * shrink)
        cells.append([image, Paragraph(escape(picture.caption), text)])
    rows = [cells[k : k + 2] + [""] * (2 - len(cells[k : k + 2])) for k in range(0, len(cells), 2)]
    return [Table(rows, colWidths=[column + 6] * 2)] if rows else []
