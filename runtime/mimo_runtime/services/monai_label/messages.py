"""The JSON of MONAI Label's protocol."""

from __future__ import annotations

import time
from typing import TypedDict

from .inference import ModelJson


class DatastoreJson(TypedDict):
    """Stored images, and those with a final label."""

    total: int
    completed: int


class StrategyJson(TypedDict):
    """How the next image is chosen."""

    description: str
    config: dict[str, str]


class InfoJson(TypedDict):
    """What the service offers."""

    name: str
    description: str
    version: str
    labels: list[str]
    models: dict[str, ModelJson]
    trainers: dict[str, str]
    strategies: dict[str, StrategyJson]
    scoring: dict[str, str]
    train_stats: dict[str, str]
    datastore: DatastoreJson


class SessionJson(TypedDict):
    """A session; ``expiry`` counts from its last use."""

    name: str
    create_ts: int
    last_access_ts: int
    expiry: int


class SessionsJson(TypedDict):
    """A new session."""

    session_id: str
    session_info: SessionJson


class SavedJson(TypedDict):
    """What was stored, by the name of its image."""

    image: str
    label: str | None


class SampleJson(TypedDict):
    """An image to label."""

    id: str
    name: str
    ts: int


class AuthJson(TypedDict):
    """Whether requests need a key."""

    enabled: bool


class TokenJson(TypedDict):
    """What requests carry as ``Authorization``."""

    access_token: str
    token_type: str


class EmptyJson(TypedDict):
    """Nothing to say."""


def session_json(name: str, created: int, expiry_s: int) -> SessionJson:
    """A session for JSON."""
    return {"name": name, "create_ts": created, "last_access_ts": int(time.time()), "expiry": expiry_s}
