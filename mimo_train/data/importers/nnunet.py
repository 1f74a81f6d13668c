"""nnU-Net raw folders and Medical Segmentation Decathlon folders: volumes that become slices, or pictures.

``dataset.json`` comes in several dialects; see :mod:`.dataset_json` for labels and channels, :mod:`.listing` for files. The
channels red, green and blue become one image in colour. All slices of a volume are one case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import check_size

from .common import read_json, required_folder, required_region, required_source
from .dataset_json import Channels, modality_of_channels, read_channels, read_labels
from .listing import Files, find_files
from .pictures import Picture, check_picture, picture_item
from .slices import Case, Slicing, slices
from .volume import Volume, is_volume
from .writer import Item, Plan, Target


def plan_nnunet(
    source: Path,
    target: Target,
    *,
    modality: str | None = None,
    region: str | None = None,
    classes: Mapping[int, str] | None = None,
    channel: str | None = None,
    slicing: Slicing | None = None,
) -> Plan:
    """Check an nnU-Net or MSD folder, all headers included, and plan its import.

    Args:
        modality: needed unless the channel's name implies it.
        classes: names that replace those of ``dataset.json``.
        channel: number or name of the channel that becomes the image; channel 0, or the three colours, if left out.

    Raises:
        RequestError: names the file or the option.
    """
    slicing = slicing or Slicing()
    required_source(source)
    region = required_region(region)
    required_folder(source, "the source", "Name the folder that holds dataset.json")
    path = source / "dataset.json"
    data = read_json(path)
    if not isinstance(data, dict):
        raise RequestError(f"{path} is not a JSON object", "Use the dataset.json of nnU-Net or MSD")
    labels = read_labels(path, data.get("labels"), classes or {})
    channels = read_channels(path, data, channel)
    modality = modality_of_channels(modality, channels)
    notes: Counter[str] = Counter()
    files = find_files(source, data, channels, notes)
    target.check_sources(source)
    if _are_pictures(files):
        pictures = [_picture(entry, channels, target) for entry in files]
        check_picture(pictures[0], modality)
        items = (picture_item(picture, labels, modality, region, notes) for picture in pictures)
        return Plan(len(pictures), ([item] if item else [] for item in items), notes)
    cases = [_opened(entry, slicing.plane, channels, target, notes) for entry in files]

    def groups() -> Iterator[Iterator[Item]]:
        for case in cases:
            yield slices(case, labels, slicing, target.seed, notes, modality, region)

    return Plan(len(cases), groups(), notes)


def _are_pictures(files: list[Files]) -> bool:
    """Whether the first label that exists is a picture by its content."""
    first = next((entry.label for entry in files if entry.label.is_file()), None)
    return first is not None and not is_volume(first) and not first.name.lower().endswith((".nii", ".nii.gz"))


def _picture(files: Files, channels: Channels, target: Target) -> Picture:
    for path in (*(path for path, _ in files.images), files.label):
        if not path.is_file():
            raise RequestError(f"{path} does not exist", "Restore it, or remove its case")
    return Picture(files, channels, target.case_of(files.case, files.case))


def _opened(files: Files, plane: str, channels: Channels, target: Target, notes: Counter[str]) -> Case:
    """The headers of a case, checked; ``notes`` count what is not as it should be."""
    images = [(Volume.open(path), number) for path, number in files.images]
    if images[0][0].colour:
        images = images[:1]
    image = images[0][0]
    for volume, number in images:
        if number >= volume.channels:
            what = f"{volume.path} has {volume.channels} channel(s), not {number + 1}"
            raise RequestError(what, "Choose another with --channel")
    others = [volume.on_grid_of(image)[0] for volume, _ in images[1:] if volume.path != image.path]
    label, shift = Volume.open(files.label).on_grid_of(image)
    plane = image.plane_of(plane)
    check_size(f"a slice of {image.path}", *image.size(plane))
    notes["labels_less_than_half_a_voxel_beside_their_image"] += bool(shift)
    notes["volumes_at_45_degrees_with_the_order_of_their_axes_kept"] += image.ambiguous
    notes["volumes_with_channels_that_dataset_json_does_not_list"] += not image.colour and image.channels > channels.count
    notes["images_in_colour"] += bool(image.colour or len(images) > 1)
    grids = {image.path: image} | {volume.path: volume for volume in others}
    sources = tuple((grids[volume.path], number) for volume, number in images)
    return Case(files.case, sources, label, plane, target.case_of(files.case, files.case))
