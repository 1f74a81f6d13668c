"""The settings of a module, in ``task.json`` beside the images: a question, or rules.

    {"process": {"settings": {"ask": "liver", "write": ["seg", "sr"], "notify": true}}}

Source: https://mercure-imaging.org/docs/modules.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import RequestError
from ...model.json_fields import is_too_deep
from ...text.questions import EVERYTHING
from ..dicom_node.rules import Rule, parse_rules

TASK = "task.json"
_LARGEST_FILE = 16 << 20
_FIELDS = ("ask", "write", "rules", "notify", "min_images")


@dataclass(frozen=True)
class ModuleSettings:
    """What a module does.

    Args:
        rules: which question is asked about which series.
        notifies: whether a structure that is present triggers a notification.
    """

    rules: tuple[Rule, ...]
    notifies: bool = False


def read_settings(folder: Path, default_ask: str | None = None) -> ModuleSettings:
    """Of the task in a folder.

    Args:
        default_ask: the question where the task has neither ``ask`` nor ``rules``; None asks for all structures.

    Raises:
        RequestError: the task cannot be read, has another setting, or a value that does not fit.
    """
    settings = _settings_of(folder / TASK)
    if unknown := sorted(settings.keys() - set(_FIELDS)):
        raise RequestError(f"the settings of the module have no field '{unknown[0][:40]}'", f"Fields: {', '.join(_FIELDS)}")
    if "rules" in settings and settings.keys() & {"ask", "write", "min_images"}:
        raise RequestError("the settings of the module have rules, and a question beside them", "Write one of them")
    notifies = settings.get("notify", False)
    if not isinstance(notifies, bool):
        raise RequestError("the setting notify is not true or false", "Write true or false")
    rules = settings.get("rules")
    if rules is None:
        fields = {name: settings[name] for name in ("write", "min_images") if name in settings}
        rules = [{"name": "ask", "ask": settings.get("ask", default_ask or EVERYTHING), **fields}]
    return ModuleSettings(parse_rules({"rules": rules}), notifies)


def _settings_of(path: Path) -> Mapping[str, object]:
    """The settings in a task; empty without a task or settings."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise RequestError(f"{TASK} is larger than 16 MB", "Send the task of Mercure")
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RequestError(f"{TASK} cannot be read: {error.strerror}", "Check the folder of the images") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{TASK} is no valid JSON", "Send the task of Mercure") from None
    process = content.get("process") if isinstance(content, dict) else None
    if isinstance(process, list) and len(process) == 1:
        process = process[0]
    settings = (process or {}).get("settings") or {} if isinstance(process, (dict, type(None))) else None
    if not isinstance(settings, dict) or is_too_deep(settings):
        raise RequestError(f"{TASK} has no object process.settings", "Write the settings of the module as a JSON object")
    return settings
