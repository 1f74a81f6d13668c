"""Questions in languages other than English: which language, and which kind of question."""

from __future__ import annotations

import re

from .names import fold, words_of

#: By language: words of questions for the frames of ``questions.QUESTIONS`` ("" is any), without accents.
WORDS = {
    "es": {
        "where": "donde localiza ubica encuentra", "count": "cuantos cuantas cuenta", "size": "tamano mide grande area",
        "segment": "segmenta muestra muestrame marca delinea contornea senala", "presence": "hay existe ve tiene puede",
        "describe": "ves describe", "": "esta estan que cual es son por favor usted imagen en sin veo",
    },
    "de": {
        "where": "wo finde lokalisiere suche", "count": "wieviele wieviel anzahl zahle viele",
        "size": "gross grosse lang messe",
        "segment": "zeige zeig segmentiere markiere umrande zeichne", "presence": "gibt vorhanden sichtbar hat",
        "describe": "siehst beschreibe", "": "ist sind was welche wie bitte bild du ich und nicht kein keine keinen ohne",
    },
    "fr": {
        "where": "ou localisez localise trouvez trouve", "count": "combien comptez compte",
        "size": "taille mesure grand grande mesurez",
        "segment": "montre montrez segmente segmentez delimite delimitez marquez", "presence": "existe voit voyez",
        "describe": "vois decrivez decris", "": "est sont quel quelle quels y qu que il vous dans cette image plait sil pas"
        " sans",
    },
    "other": {
        "": "dove mostra mostrami quanti quanto fegato cosa vedi onde mostre quantos existe voce waar toon hoeveel zie"
        " gdzie pokaz jest var kde hvor vis hur mycket nerede kac goster goruyorsun dimana adalah missa kuinka"
    },
}  # fmt: skip
#: Words of :data:`WORDS` that are English, too: with no other one, a text is English.
ENGLISH_TOO = words_of("image area son gross grand hat was lang vis")
#: Last code point of Latin letters.
LATIN_END = 0x24F
#: Frames of questions in Chinese with their patterns, the first that matches decides.
CHINESE = (
    ("where", r"在哪|哪里|哪儿|位置|定位|找"), ("count", r"多少|几个|数量|计数"), ("size", r"多大|大小|尺寸|面积|直径"),
    ("presence", r"有没有|是否|有无|有|吗|能看到"), ("segment", r"分割|显示|标出|勾画|圈出|标记|描绘"),
    ("describe", r"看到什么|描述|是什么|哪些"),
)  # fmt: skip


def foreign_frame(text: str, least: int = 1) -> str | None:
    """The frame (of ``questions.QUESTIONS``, or "size") of a question in another language; None for what looks like English.

    Args:
        least: how many words of another language a text in Latin letters needs.
    """
    letters = [c for c in fold(text) if c.isalpha()]
    if not letters:
        return None
    if sum(ord(c) > LATIN_END for c in letters) * 2 >= len(letters):
        return next((frame for frame, pattern in CHINESE if re.search(pattern, text)), "where")
    words = set(fold(text).split())
    best: tuple[int, str] | None = None
    for frames in WORDS.values():
        hits = {frame: len(words & set(listed.split())) for frame, listed in frames.items()}
        known = any(words & set(listed.split()) - ENGLISH_TOO for listed in frames.values())
        if known and (total := sum(hits.values())) >= least and (best is None or total > best[0]):
            best = total, max((frame for frame in hits if frame), key=hits.__getitem__, default="where")
    return None if best is None else best[1]
