"""The picture of a line -> its letters, with RapidOCR's recognition model (`text_rec`).

The same as RapidOCR's own call gives for one picture, without what that makes beside: it looks through the model's
answer twice, which has a score for each of 18,710 letters at each place (17 MB a line).

Left to others: cutting lines out, and what is too unsure to be text (`recognition.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

#: The class that stands for no letter, between two that are the same (CTC).
NOTHING = 0
#: Digits of a confidence, as RapidOCR rounds it.
DIGITS = 5


def read_line(recognizer: Any, picture: Image) -> tuple[str, float]:
    """The letters of a line (BGR, its text level) and how sure they are, 0 to 1; 0 where there are none."""
    _, height, width = recognizer.rec_image_shape
    ratio = max(width / height, picture.shape[1] / picture.shape[0])
    scores = recognizer.session(recognizer.resize_norm_img(picture, ratio)[None])[0]
    best = scores.argmax(axis=1)
    kept = best != NOTHING
    kept[1:] &= best[1:] != best[:-1]
    letters = best[kept]
    if not len(letters):
        return "", 0.0
    sure = [round(score, DIGITS) for score in scores[kept, letters].tolist()]
    text = "".join(recognizer.postprocess_op.character[letter] for letter in letters.tolist())
    # NumPy's mean and rounding, which differ from Python's in the last digit.
    return text, float(np.mean(sure).round(DIGITS))
