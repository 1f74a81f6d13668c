"""Whether the written vision encoder gives the same verdicts on the domain of images as PyTorch."""

from __future__ import annotations

from collections.abc import Iterable

from mimo_runtime.domain.check import check_domain
from mimo_runtime.domain.statistics import DomainStatistics
from mimo_runtime.graphs import ModelGraphs

from .parity.samples import Sample
from .schema import DomainParity


def compare_verdicts(
    statistics: DomainStatistics, reference: ModelGraphs, shipped: ModelGraphs, samples: Iterable[Sample]
) -> DomainParity:
    """Check the images of some samples with the features of two encoders.

    Args:
        reference: in PyTorch.
        shipped: over the written files.
    """
    report: DomainParity = {"images": 0, "same_verdicts": 0, "largest_change": 0.0}
    for number, sample in enumerate(samples):
        encoded = [graphs.encode_image(sample.pixels, f"domain {number}") for graphs in (reference, shipped)]
        first, second = (check_domain(image.features, image.letterbox, statistics) for image in encoded)
        report["images"] += 1
        report["same_verdicts"] += first.verdict == second.verdict
        report["largest_change"] = round(max(report["largest_change"], abs(first.score - second.score)), 4)
    return report
