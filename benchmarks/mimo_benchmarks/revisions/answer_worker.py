"""A program that answers questions with the ``mimo_runtime`` on its ``PYTHONPATH``, one at a time.

It runs on other revisions of this repository. It uses only what all of them have: ``Mimo.load``, ``Mimo.open`` and
``Scan.ask`` with text, boxes, points and mask.

Standard input holds one JSON object per line:

1. ``{"bundle", "threads", "questions"}``, where ``questions`` is a file of ``questions.write_questions``. The reply is
   ``{"source"}``, the file of ``mimo_runtime``.
2. From then on ``{"question", "masks"}``: the index of a question, and a file for the masks or null. The reply is ``{"ms",
   "text", "findings"}``, or ``{"ms", "error"}`` with the class of the error where the question is refused.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def main() -> None:
    del sys.path[0]  # the folder of this file
    import mimo_runtime
    from mimo_runtime import Mimo

    lines = iter(sys.stdin.readline, "")
    setup = json.loads(next(lines))
    with open(setup["questions"], encoding="utf-8") as file:
        questions = [json.loads(line) for line in file]
    # Without the cache of images every answer includes its image.
    mimo = Mimo.load(setup["bundle"], threads=setup["threads"], cache_images=0)
    print(json.dumps({"source": mimo_runtime.__file__}), flush=True)
    for line in lines:
        request = json.loads(line)
        question = questions[request["question"]]
        mask = None if question["mask"] is None else np.load(question["mask"])
        points = [tuple(point) for point in question["points"]]
        boxes = [tuple(box) for box in question["boxes"]]
        start = time.perf_counter()
        try:
            answer = mimo.open(question["image"], frame=question["frame"]).ask(question["text"], boxes, points, mask)
        except Exception as error:  # a refusal is an answer, and compared as one
            reply = {"error": type(error).__name__}
        else:
            reply = {"text": answer.text}
        reply["ms"] = 1000 * (time.perf_counter() - start)
        if "error" not in reply:
            reply["findings"] = [
                [f.phrase, None if f.box is None else [float(v) for v in f.box], float(f.score), bool(f.present)]
                for f in answer.findings
            ]
            if request["masks"] is not None:
                np.savez(request["masks"], *[f.mask for f in answer.findings])
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
