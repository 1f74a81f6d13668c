"""The images that viewers upload, by their names, with the labels that they save: bounded, in memory only."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...errors import RequestError
from ...pipeline import Mimo
from ..http.service import Service
from ..store import ByteLru, MissingImageError
from .opening import OpenedVolume, open_volume

#: Names that are kept; the least recently used go first.
MOST_NAMES = 1000
_LONGEST_NAME = 256


@dataclass(eq=False)
class StoredFiles:
    """An upload.

    Args:
        name: that the client chose, or the id of a session.
        files: ids of the bytes in the store.
        created: seconds since 1970.
        is_session: whether it is no image of the list.
        labels: ids of saved label files by tag.
    """

    name: str
    files: tuple[str, ...]
    created: int
    is_session: bool = False
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def is_labelled(self) -> bool:
        """Whether a person saved a final label."""
        return "final" in self.labels


class Datastore:
    """Uploads of a service. Threads may share it.

    Args:
        service: whose store has the bytes.
        clock: seconds since 1970, for tests.
    """

    def __init__(self, service: Service, clock: Callable[[], float] = time.time) -> None:
        self.service, self._clock = service, clock
        self._entries: OrderedDict[str, StoredFiles] = OrderedDict()
        self._lock = threading.Lock()
        settings = service.settings
        self._volumes: ByteLru[OpenedVolume] = ByteLru(settings.store_bytes, settings.store_ttl_s)

    def add(self, name: str, files: Sequence[bytes], *, is_session: bool = False) -> StoredFiles:
        """Keep files under a name, instead of earlier ones.

        Raises:
            RequestError: the name is empty or too long, or there is no file, or they are larger than the store.
        """
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise RequestError("the name of the image is empty or too long", f"Use up to {_LONGEST_NAME} characters")
        if not files or not all(files):
            raise RequestError("the request has no image", "Send the file as a part of its own")
        stored = tuple(self._keep(data) for data in files)
        entry = StoredFiles(name, stored, int(self._clock()), is_session)
        with self._lock:
            self._entries.pop(name, None)
            self._entries[name] = entry
            while len(self._entries) > MOST_NAMES:
                self._entries.popitem(last=False)
        return entry

    def get(self, name: str) -> StoredFiles:
        """An upload.

        Raises:
            MissingImageError: never sent, or forgotten since.
        """
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and all(self._is_kept(file) for file in entry.files):
                self._entries.move_to_end(name)
                return entry
            self._entries.pop(name, None)
        raise MissingImageError("no image of this name is stored", "Upload the image first")

    def remove(self, name: str) -> None:
        """Forget an upload. Raises MissingImageError."""
        self.get(name)
        with self._lock:
            self._entries.pop(name, None)

    def images(self) -> list[StoredFiles]:
        """The uploads that are no session, in the order of their last use."""
        with self._lock:
            entries = [entry for entry in self._entries.values() if not entry.is_session]
        return [entry for entry in entries if all(self._is_kept(file) for file in entry.files)]

    def save_label(self, name: str, tag: str, data: bytes) -> None:
        """Keep a label file. Raises MissingImageError, RequestError."""
        entry = self.get(name)
        if not data or not 0 < len(tag) <= 40 or not tag.isprintable() or len(entry.labels) >= 20:
            raise RequestError("the label is empty, or its tag is", "Send a file as the part 'label', and a short tag")
        entry.labels[tag] = self._keep(data)

    def label(self, name: str, tag: str) -> bytes:
        """A label file. Raises MissingImageError."""
        file = self.get(name).labels.get(tag)
        if file is None:
            raise MissingImageError("no label of this tag is stored", "Save it first")
        return self.service.store.get(file).data

    def data(self, entry: StoredFiles) -> list[bytes]:
        """The bytes of its files. Raises MissingImageError."""
        return [self.service.store.get(file).data for file in entry.files]

    def open(self, mimo: Mimo, entry: StoredFiles) -> OpenedVolume:
        """The volume of an upload, in the turn of a job. Errors of ``open_volume``."""
        known = self._volumes.get(entry.files)
        if known is None:
            known = self.open_files(mimo, self.data(entry), entry.name)
            self._volumes.put(entry.files, known, known.volume.values.nbytes)
        return known

    def open_files(self, mimo: Mimo, files: Sequence[bytes], name: str = "") -> OpenedVolume:
        """The volume of files that are not kept. Errors of ``open_volume``."""
        return open_volume(mimo, files, name, self.service.scratch, self.service.settings.store_bytes)

    def _keep(self, data: bytes) -> str:
        if len(data) > self.service.settings.store_bytes:
            raise RequestError("the file is larger than the store", "Send a smaller one, or raise --store")
        return self.service.store.put(data).id

    def _is_kept(self, file: str) -> bool:
        return self.service.store.files.get(file) is not None
