"""The report as a PDF of A4 pages."""

from __future__ import annotations

import io
from html import escape

from ...errors import RequestError
from ...utils.untyped import Untyped
from .content import ReportChange, ReportPicture, ReportRow, StudyReport

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
    text, heading = styles["BodyText"], styles["Heading2"]

    def lines(*items: str) -> list[object]:
        return [Paragraph(escape(item), text) for item in items]

    story: list[object] = [Paragraph(escape(report.title), styles["Title"]), Paragraph(f"<b>{escape(report.mark)}</b>", text)]
    story += [Paragraph(f"<b>{escape(name)}</b>: {escape(value)}", text) for name, value in report.facts]
    if report.sentences or report.refusals:
        story += [Paragraph("Answer", heading), *lines(*report.sentences)]
        story += lines(*(f"Not answered: {refusal}" for refusal in report.refusals))
    story += [Paragraph("Images", heading), *_pictures(report.pictures, width)]
    cards = [_card(_titled(row), ("measure", "value", "range"), _measures(row), width) for row in report.rows]
    story += [Paragraph("Measurements", heading), *(_in_pairs(cards, width) if cards else lines("No structure."))]
    if report.changes:
        story += [Paragraph("Follow-up", heading), *lines(*report.follow_up)]
        story += lines("Changes in parentheses lie within the uncertainty of the measures.")
        head = ("measure", "before", "now", "change")
        cards = [_card(change.name, head, _changes(change), width, change.matched_by) for change in report.changes]
        story += [Spacer(1, 6), *_in_pairs(cards, width)]
    return [*story, KeepTogether([Paragraph("Limits", heading), *lines(*report.limits)])]


def _titled(row: ReportRow) -> str:
    return f"{row.name} (uncertain, review needed)" if row.needs_review else row.name


def _measures(row: ReportRow) -> list[tuple[str, ...]]:
    return [(f"{v.name} ({v.note})" if v.note else v.name, v.value, v.span) for v in row.values]


def _changes(change: ReportChange) -> list[tuple[str, ...]]:
    return [(v.name, v.before, v.now, v.change if v.is_certain else f"({v.change})") for v in change.values]


def _card(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]], width: float, subtitle: str = "") -> list[object]:
    """A structure with a table of its measures, for half of the page's width."""
    from reportlab.lib import colors
    from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
    from reportlab.platypus import Paragraph, Table

    small = ParagraphStyle("small", getSampleStyleSheet()["BodyText"], fontSize=8, leading=9.5, spaceBefore=0, spaceAfter=0)
    content: list[object] = [Paragraph(f"<b>{escape(title)}</b>", getSampleStyleSheet()["BodyText"])]
    content += [Paragraph(escape(subtitle), small)] if subtitle else []
    if not rows:
        return content
    first = 0.4 if len(head) == 3 else 0.36
    column = width / 2 - 16
    widths = [column * first, *[column * (1 - first) / (len(head) - 1)] * (len(head) - 1)]
    cells = [head, *([Paragraph(escape(name), small), *values] for name, *values in rows)]
    style = [
        ("FONTSIZE", (0, 0), (-1, -1), 8), ("LEADING", (0, 0), (-1, -1), 9.5), ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
        ("VALIGN", (0, 0), (-1, -1), "TOP"), ("TOPPADDING", (0, 0), (-1, -1), 1), ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
        ("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 2),
        ("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.lightgrey), ("TEXTCOLOR", (0, 0), (-1, 0), colors.dimgrey),
    ]  # fmt: skip
    return [*content, Table(cells, colWidths=widths, style=style, hAlign="LEFT")]


def _in_pairs(cards: list[list[object]], width: float) -> list[object]:
    """Two beside each other; a card is not divided between pages."""
    from reportlab.platypus import Table

    rows = [[cards[k], cards[k + 1] if k + 1 < len(cards) else ""] for k in range(0, len(cards), 2)]
    style = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 8)]
    return [Table(rows, colWidths=[width / 2] * 2, style=style, hAlign="LEFT")]


def _pictures(pictures: tuple[ReportPicture, ...], width: float) -> list[object]:
    """Two beside each other, at their own proportions."""
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Image, Paragraph, Table

    text = getSampleStyleSheet()["BodyText"]
    column = (width - 24) / 2
    cells = []
    for picture in pictures:
        height = column * picture.height / picture.width
        shrink = min(1.0, 220 / height)
        image = Image(io.BytesIO(picture.png), column * shrink, height * shrink)
        cells.append([image, Paragraph(escape(picture.caption), text)])
    rows = [cells[k : k + 2] + [""] * (2 - len(cells[k : k + 2])) for k in range(0, len(cells), 2)]
    style = [("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP")]
    return [Table(rows, colWidths=[width / 2] * 2, style=style, hAlign="LEFT")] if rows else []
