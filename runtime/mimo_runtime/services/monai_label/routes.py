"""The routes of MONAI Label's protocol over the shared model, store and queue."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from ...errors import RequestError
from ..host import Served
from ..http.bodies import media_type
from ..http.errors import HttpError
from ..http.guard import headers_of, key_of
from ..http.openapi import Operation
from ..http.service import Adapter, Service
from ..jobs import Job
from ..viewers import with_detail
from .batch import Batches, BatchJson
from .datastore import Datastore, StoredFiles
from .formats import label_file, multipart
from .inference import POINTS, POINTS_2D, InferParams, infer, models_of
from .messages import (
    AuthJson,
    DatastoreJson,
    EmptyJson,
    InfoJson,
    SampleJson,
    SavedJson,
    SessionJson,
    SessionsJson,
    TokenJson,
    session_json,
)
from .multipart_parts import only, read_parts

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

FILE = "application/octet-stream"
_OUTPUTS = ("all", "image", "json")
_STRATEGY = "first"
_FORM = "application/x-www-form-urlencoded"

OPERATIONS = (
    Operation("GET", "/info/", "MONAI Label: models and labels.", None, InfoJson),
    Operation("POST", "/infer/{model}", "MONAI Label: labels.", None, None, parts=("params", "file"), media=(FILE,)),
    Operation("PUT", "/session/", "MONAI Label: send an image for a while.", None, SessionsJson, parts=("files",)),
    Operation("GET", "/session/{id}", "MONAI Label: describe a session.", None, SessionJson),
    Operation("DELETE", "/session/{id}", "MONAI Label: end a session.", None, SessionJson),
    Operation("GET", "/datastore/", "MONAI Label: stored images.", None, DatastoreJson),
    Operation("PUT", "/datastore/", "MONAI Label: store an image.", None, SavedJson, parts=("file",)),
    Operation("PUT", "/datastore/image", "MONAI Label: store an image.", None, SavedJson, parts=("file",)),
    Operation("DELETE", "/datastore/", "MONAI Label: forget an image.", None, EmptyJson),
    Operation("DELETE", "/datastore/image", "MONAI Label: forget an image.", None, EmptyJson),
    Operation("GET", "/datastore/image", "MONAI Label: a stored file.", None, None, media=(FILE,)),
    Operation("PUT", "/datastore/label", "MONAI Label: save a label.", None, SavedJson, parts=("label",)),
    Operation("GET", "/datastore/label", "MONAI Label: a saved label.", None, None, media=(FILE,)),
    Operation("POST", "/activelearning/{strategy}", "MONAI Label: an image without a final label.", None, SampleJson),
    Operation("POST", "/batch/infer/{model}", "MONAI Label: label all stored images.", None, BatchJson),
    Operation("GET", "/batch/infer", "MONAI Label: state of the last run.", None, BatchJson),
    Operation("DELETE", "/batch/infer", "MONAI Label: end the run.", None, BatchJson),
    Operation("GET", "/logs/", "MONAI Label: where the log is.", None, None, media=("text/plain",)),
    Operation("GET", "/auth/", "MONAI Label: say whether keys are needed.", None, AuthJson),
    Operation("POST", "/auth/token", "MONAI Label: an API key, sent as the password.", None, TokenJson),
    Operation("GET", "/auth/token/valid", "MONAI Label: say whether a key is valid.", None, EmptyJson),
    *(
        Operation(method, path, "MONAI Label: refused, the service does not train.", None, None)
        for method, path in (("GET", "/train/"), ("POST", "/train/"), ("DELETE", "/train/"), ("POST", "/train/{model}"))
    ),
)  # fmt: skip


class LabelRoutes:
    """MONAI Label's protocol over the shared service."""

    def __init__(self, service: Service) -> None:
        self.service, self.datastore = service, Datastore(service)
        self.batches = Batches(service, self.datastore)

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        table: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
            ("GET", "/info/", self.info), ("POST", "/infer/{model}", self.infer), ("PUT", "/session/", self.open_session),
            ("GET", "/session/{id}", self.session), ("DELETE", "/session/{id}", self.close_session),
            ("GET", "/datastore/", self.list_images), ("PUT", "/datastore/", self.add_image),
            ("PUT", "/datastore/image", self.add_image), ("DELETE", "/datastore/", self.remove_image),
            ("DELETE", "/datastore/image", self.remove_image), ("GET", "/datastore/image", self.image),
            ("PUT", "/datastore/label", self.save_label), ("GET", "/datastore/label", self.label),
            ("POST", "/activelearning/{strategy}", self.next_image), ("POST", "/batch/infer/{model}", self.start_batch),
            ("GET", "/batch/infer", self.batch), ("DELETE", "/batch/infer", self.stop_batch), ("GET", "/logs/", self.logs),
            ("GET", "/auth/", self.auth), ("POST", "/auth/token", self.token), ("GET", "/auth/token/valid", self.token_state),
            ("GET", "/train/", self.train), ("POST", "/train/", self.train), ("POST", "/train/{model}", self.train),
            ("DELETE", "/train/", self.train),
        )  # fmt: skip
        return [Route(path, with_detail(handler, self.service.jobs), methods=[method]) for method, path, handler in table]

    async def info(self, request: Request) -> Response:
        """Models, labels, and counts of the images."""
        with self.service.host.use() as served:
            config, images = served.mimo.config, self.datastore.images()
            content: InfoJson = {
                "name": "mimo-edge",
                "description": "Structures by name, and objects by points or a box",
                "version": served.mimo.info.get("id", ""),
                "labels": list(config.entities),
                "models": models_of(config),
                "trainers": {},
                "strategies": {_STRATEGY: {"description": "An image without a final label", "config": {}}},
                "scoring": {},
                "train_stats": {},
                "datastore": {"total": len(images), "completed": sum(image.is_labelled for image in images)},
            }
        return _json(content)

    async def infer(self, request: Request) -> Response:
        """Labels of a stored image, of a session, or of a file in the request."""
        from starlette.responses import Response

        model, output = request.path_params["model"], request.query_params.get("output", "all")
        if output not in _OUTPUTS:
            raise RequestError("the output is not one that this service writes", f"Use {', '.join(_OUTPUTS)}")
        parts = await read_parts(request)
        params = InferParams.read(only(parts, "params", b"{}"))
        files = parts.get("file", [])
        if "label" in parts:
            raise RequestError("scribbles in a label file are not read", f"Use the model '{POINTS}'")
        entry = None if files else self.datastore.get(self._name(request))

        def work(served: Served, job: Job) -> tuple[bytes, dict[str, object]]:
            self._check_model(served, model)
            mimo = served.mimo
            opened = self.datastore.open_files(mimo, files) if entry is None else self.datastore.open(mimo, entry)
            labels, names = infer(mimo, job, model, opened, params)
            reply: dict[str, object] = {"label_names": names, "model": mimo.info.get("id", "")}
            if model in (POINTS, POINTS_2D):
                reply |= {"foreground": params.foreground, "background": params.background}
            return label_file(labels, opened.grid.affine, params.extension, params.compress), reply

        data, reply = await self.service.run(request, work)
        name = f"label{params.extension}"
        if output == "json":
            return _json(reply)
        if output == "image":
            return Response(data, media_type=FILE, headers={"Content-Disposition": f'attachment; filename="{name}"'})
        body, kind = multipart(reply, data, name)
        return Response(body, headers={"Content-Type": kind})

    async def open_session(self, request: Request) -> Response:
        """Take an image: one file, or a DICOM file for each slice."""
        parts = await read_parts(request)
        entry = self.datastore.add(str(uuid.uuid4()), parts.get("files", []), is_session=True)
        content: SessionsJson = {"session_id": entry.name, "session_info": self._session(entry)}
        return _json(content)

    async def session(self, request: Request) -> Response:
        """What is known of a session."""
        return _json(self._session(self.datastore.get(request.path_params["id"])))

    async def close_session(self, request: Request) -> Response:
        """Forget a session."""
        entry = self.datastore.get(request.path_params["id"])
        self.datastore.remove(entry.name)
        return _json(self._session(entry))

    async def list_images(self, request: Request) -> Response:
        """Counts, or with ``output=all`` the images with the tags of their labels."""
        images = self.datastore.images()
        objects = {image.name: _listed(image) for image in images}
        counts: DatastoreJson = {"total": len(images), "completed": sum(image.is_labelled for image in images)}
        kind = request.query_params.get("output", "stats")
        return _json({"name": "mimo-edge", "objects": objects} if kind == "all" else counts)

    async def add_image(self, request: Request) -> Response:
        """Store an image, by default under the hash of its file."""
        data = only(await read_parts(request), "file")
        name = request.query_params.get("image") or hashlib.sha256(data).hexdigest()
        content: SavedJson = {"image": self.datastore.add(name, [data]).name, "label": None}
        return _json(content)

    async def remove_image(self, request: Request) -> Response:
        """Forget an image and its labels."""
        self.datastore.remove(request.query_params.get("id", ""))
        content: EmptyJson = {}
        return _json(content)

    async def image(self, request: Request) -> Response:
        """The file of an image."""
        files = self.datastore.data(self.datastore.get(request.query_params.get("image", "")))
        return _file(files[0])

    async def save_label(self, request: Request) -> Response:
        """Keep the label of an image."""
        query, data = request.query_params, only(await read_parts(request), "label")
        name, tag = query.get("image", ""), query.get("tag") or "final"
        self.datastore.save_label(name, tag, data)
        content: SavedJson = {"image": name, "label": name}
        return _json(content)

    async def label(self, request: Request) -> Response:
        """A label that was saved."""
        query = request.query_params
        return _file(self.datastore.label(query.get("label", ""), query.get("tag", "final")))

    async def next_image(self, request: Request) -> Response:
        """An image without a final label; {} without such."""
        if request.path_params["strategy"] != _STRATEGY:
            raise HttpError(404, "there is no such strategy", f"Use {_STRATEGY}")
        image = next((image for image in self.datastore.images() if not image.is_labelled), None)
        if image is None:
            return _json({})
        content: SampleJson = {"id": image.name, "name": f"{image.name}.nii.gz", "ts": image.created}
        return _json(content)

    async def start_batch(self, request: Request) -> Response:
        """Label all stored images, or with ``images=unlabeled`` those without a final label."""
        await request.body()
        model, query = request.path_params["model"], request.query_params
        with self.service.host.use() as served:
            self._check_model(served, model)
        if model in (POINTS, POINTS_2D):
            raise RequestError("a model that needs points is not for many images", "Use a model of structures")
        is_open = query.get("images", "all").lower() == "unlabeled"
        images = [image for image in self.datastore.images() if not is_open or not image.is_labelled]
        return _json(await self.batches.start(model, images, waits=query.get("run_sync", "").lower() == "true"))

    async def batch(self, request: Request) -> Response:
        """The last run; 404 without one, or with ``check_if_running`` unless it goes on."""
        only_running = request.query_params.get("check_if_running", "").lower() == "true"
        if self.batches.state is None or only_running and not self.batches.is_running:
            raise HttpError(404, "no run over images goes on")
        return _json(self.batches.state)

    async def stop_batch(self, request: Request) -> Response:
        """End the run."""
        state = self.batches.stop()
        if state is None:
            raise HttpError(404, "there was no run over images")
        return _json(state)

    async def logs(self, request: Request) -> Response:
        """Where the log is: it is not kept in the service."""
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("The log of mimo-run serve is its standard error. Counters are at /metrics.\n")

    async def auth(self, request: Request) -> Response:
        """Whether requests need a key."""
        content: AuthJson = {"enabled": bool(self.service.settings.keys)}
        return _json(content)

    async def token(self, request: Request) -> Response:
        """The password, if it is an API key: 3D Slicer sends it as a bearer token from then on."""
        if media_type(request) != _FORM:
            raise HttpError(415, "the body is no form", f"Send {_FORM}")
        fields = parse_qs((await request.body())[:4096].decode("latin-1"))
        key, keys = fields.get("password", [""])[0], self.service.settings.keys
        if keys and not keys.accept(key):
            raise HttpError(401, "the password is no API key of this service", "Enter the key; any name will do")
        content: TokenJson = {"access_token": key, "token_type": "bearer"}
        return _json(content)

    async def token_state(self, request: Request) -> Response:
        """200 with a key of this service, else 401."""
        keys = self.service.settings.keys
        if keys and not keys.accept(key_of(headers_of(request.scope))):
            raise HttpError(401, "the API key is missing or wrong", "Send it as Authorization: Bearer KEY")
        content: EmptyJson = {}
        return _json(content)

    async def train(self, request: Request) -> Response:
        """Nothing: the service does not train."""
        raise HttpError(404, "this service does not train", "Train with mimo-train")

    def _name(self, request: Request) -> str:
        query = request.query_params
        return query.get("session_id") or query.get("image") or ""

    def _session(self, entry: StoredFiles) -> SessionJson:
        return session_json(entry.name, entry.created, round(self.service.settings.store_ttl_s))

    def _check_model(self, served: Served, model: str) -> None:
        if model not in models_of(served.mimo.config):
            raise HttpError(404, "there is no model of this name", "Use one of /info/")


def _listed(image: StoredFiles) -> dict[str, object]:
    """An image with the tags of its labels."""
    labels = {tag: {"ext": ".nii.gz", "info": dict[str, str]()} for tag in image.labels}
    return {"image": {"ext": "", "info": {"ts": image.created}}, "labels": labels}


def _json(content: object) -> Response:
    from starlette.responses import Response

    return Response(json.dumps(content, ensure_ascii=True), media_type="application/json")


def _file(data: bytes) -> Response:
    from starlette.responses import Response

    name = "image.nii.gz" if data[:2] == b"\x1f\x8b" else "image.zip" if data[:2] == b"PK" else "image"
    return Response(data, media_type=FILE, headers={"Content-Disposition": f'attachment; filename="{name}"'})


MONAI_LABEL = Adapter(routes=lambda service: LabelRoutes(service).routes(), open_paths=("/auth/",), operations=OPERATIONS)
