"""One page image -> regions, with RapidOCR and the models inside its wheel.  Runs in worker processes.

RapidOCR finds, cuts out and reads the lines; here is what it leaves to its caller: pages of any size, a time limit,
lines that cannot be read, and pages that lie slightly turned, as on a scanner (they are put straight for the layout;
their boxes stay where they are).  Lines are read one by one, as a batch is padded to its longest line.

RapidOCR downloads what it is not given, so every model is named by its path and a dictionary is looked for first.

Residual risks: a letter missing in the dictionary is left out without a trace (`scripts.py`); a line of a script that
is missing as a whole comes out empty and is reported as a region `unreadable`, without text, confidence 0.
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_left, bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnxruntime
from rapidocr import RapidOCR

from deepseek_ocr.completion import Region
from deepseek_ocr.detection import MAX_SIDE_PX, find_lines
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.grids import joined_rules
from deepseek_ocr.layout import Line, regions_from_lines
from deepseek_ocr.lettering import has_light_letters, lettering_of, types_of
from deepseek_ocr.letters import read_line
from deepseek_ocr.ruling import find_rules
from deepseek_ocr.scripts import scripts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deepseek_ocr.completion import Box
    from deepseek_ocr.detection import Image, Quad
    from deepseek_ocr.grids import Rule
    from deepseek_ocr.lettering import Lettering, Type

#: What differs from RapidOCR's config.yaml, but for the models.
PARAMETERS: dict[str, Any] = {
    # It turned whole lines upside down: character error rate 0.060 with it, 0.000 without (generated 144-dpi pages).
    "Global.use_cls": False,
    # Black bars around flat images; `_workable` adds a rim of the paper's own colour.
    "Global.use_vertical_padding": False,
    # Its log goes to standard error, which is the daemon's own.
    "Global.log_level": "critical",
    # The memory arena stays off, as it comes: it saves 6 % of the time (4.95 against 5.28 s per page) and keeps twice
    # the memory (1.0 against 0.45 GB after A4 pages, 1.4 against 0.7 GB after the largest).
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    # The default enlarges without limit what has a side below 736; `_workable` has done what helps.
    "Det.limit_type": "max",
    "Det.limit_side_len": MAX_SIDE_PX,
    # From its 1000th area on RapidOCR drops what it found, without a word; a page of tiny print has more.
    "Det.max_candidates": 10_000,
    # Shorter lines are padded to this width; at the default of 320 table cells take twice the time.
    "Rec.rec_img_shape": [3, 48, 96],
}
#: Lines read with less confidence are mostly no text (Global.text_score).
MIN_CONFIDENCE = 0.5
#: What is this many times as wide as high is a line of text also when it cannot be read.  Measured on samples: things
#: taken for text in pictures are about square, lines of unknown scripts 5 and more.
SURE_LINE_RATIO = 4
#: What is wider (130 letters or so) is cut where it is emptiest, to bound the memory.
MAX_LINE_RATIO = 66
#: A rule cuts the lines it goes through if it is so many times as long as they are high; letters' strokes are shorter.
RULE_RATIO = 1.3
#: What is left out on both sides of it, and the least width of a part between two of them, in heights of the line.
RULE_RIM = 0.08
MIN_PART_RATIO = 0.25
#: Area of the image worked on; larger pages are scaled down.  An A3 page at 350 dpi, as in `sizes.py`.
MAX_PAGE_PX = 24_000_000
#: OpenCV's warps address pixels with 16 bits.
MAX_PAGE_SIDE_PX = 30_000
#: Images with a shorter side, less than A4 at 144 dpi has, are enlarged to what the detector looks at, at most twofold:
#: RapidOCR finds lines in whole pixels, which cuts into letters of six.  On screenshots of 1188 x 942 pixels it read
#: 8649 letters instead of 5753, more surely; beyond twofold letters grow too large for the detection.
MIN_SIDE_PX = 1100
MAX_ENLARGEMENT = 2.0
#: Rim added to them, as letters that touch the edge are not found, and the least size with it.
RIM_PX = 16
MIN_PADDED_PX = 64
#: Lines longer than this many times their height, and as many of them, tell how a page lies.
SLOPE_MIN_RATIO = 5
SLOPE_MIN_LINES = 3
#: Share of the time after which detection stops looking closer, so that some is left for reading.
DETECTION_SHARE = 0.5
#: What a first small picture says; every dictionary has digits.
WARM_UP_DIGITS = "24680"


@dataclass(frozen=True, slots=True)
class Reading:
    """What stands on a page; `complete` is False when the time was up before all of it was read."""

    regions: tuple[Region, ...]
    complete: bool


def read_image(detection: Path, recognition: Path, image: Image, budget_s: float) -> Reading:
    """Read an RGB page image of any size with two models; after `budget_s` what was read so far comes back."""
    started = time.monotonic()
    ocr = _load(detection, recognition)
    work, rim = _workable(image)
    quads, complete = find_lines(ocr.text_det, work, deadline=started + DETECTION_SHARE * budget_s)
    page = _Page(work.shape[1], work.shape[0], rim, _slope(quads))
    line_px = _usual_height(quads)
    stretches = _rules(work, page, quads, line_px) if quads else []
    # Not joined: the stems of large letters in lines one above the other would make a rule.
    upright = sorted((rule for rule in stretches if not rule.is_level), key=_at)
    lines: list[Line] = []
    letterings: list[Lettering] = []
    unreadable: list[Region] = []
    for quad in sorted(quads, key=lambda quad: float(quad[:, 1].mean())):
        if time.monotonic() - started > budget_s:
            complete = False
            break
        pieces = _pieces(quad, ocr.crop_text_regions(work, [quad])[0], _crossings(page.level(quad), upright))
        for part, picture in pieces:
            text, confidence = read_line(ocr.text_rec, picture)
            text = text.strip()
            if text and confidence >= MIN_CONFIDENCE:
                lines.append(Line(text, page.level_box(part), confidence=confidence))
                letterings.append(lettering_of(picture, text))
            elif _length(part, 1) >= SURE_LINE_RATIO * _length(part, 3):
                unreadable.append(Region("unreadable", "", page.level_box(part), 0.0))
    lines = [_typed(line, type_, page) for line, type_ in zip(lines, types_of(letterings), strict=True)]
    drawn = [page.rule_box(rule) for rule in joined_rules(stretches, line_px)]
    regions = (*regions_from_lines(lines, aspect=page.aspect, rules=drawn), *unreadable)
    return Reading(tuple(replace(region, box=page.true_box(region.box)) for region in regions), complete)


def warm_up(detection: Path, recognition: Path) -> tuple[str, ...]:
    """Load the models, prove that they read, and return the scripts they know; raises `EngineStartError`."""
    return scripts_of(_letters(_load(detection, recognition)))


@lru_cache(maxsize=1)
def _load(detection: Path, recognition: Path) -> Any:
    """A `RapidOCR` that has loaded both models and read a small picture with them; raises `EngineStartError`."""
    dictionary = recognition.with_suffix(".txt")
    with _loading(recognition):
        complete = _has_letters(recognition)
    if not complete and not dictionary.is_file():
        raise EngineStartError(
            f"{recognition.name} has no dictionary inside and {dictionary} does not exist: "
            f"put one letter per line there"
        )
    models = {"Det.model_path": detection, "Rec.model_path": recognition, "Rec.rec_keys_path": dictionary}
    ocr = RapidOCR(params=PARAMETERS | {name: str(path) for name, path in models.items()})
    picture = np.full((80, 400, 3), 255, np.uint8)
    cv2.putText(picture, WARM_UP_DIGITS, (40, 55), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 2, cv2.LINE_AA)
    # It loads each model when it first needs it.
    with _loading(detection):
        pictures, _ = ocr.detect_and_crop(picture, {})
    with _loading(recognition):
        text = "".join(ocr.recognize_txt(pictures).txts)
    letters, classes = len(_letters(ocr)), ocr.text_rec.session.session.get_outputs()[0].shape[-1]
    if WARM_UP_DIGITS not in text or (isinstance(classes, int) and classes != letters):
        raise EngineStartError(
            f"{recognition.name} read {text!r} where {WARM_UP_DIGITS!r} stands, with {classes} classes for a "
            f"dictionary of {letters}: put the dictionary that belongs to the model beside it"
        )
    return ocr


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's own classes have no common base but this
        raise EngineStartError(f"{path} cannot be loaded as a model of RapidOCR: {error}") from error


def _letters(ocr: Any) -> list[str]:
    """What each output of the recognition model stands for, in its order: nothing, the dictionary, a space."""
    return list(ocr.text_rec.postprocess_op.character)


def _has_letters(recognition: Path) -> bool:
    """Whether a model brings its dictionary, as RapidOCR's ONNX models do."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # 0.06 s
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(recognition), options, providers=["CPUExecutionProvider"])
    return "character" in session.get_modelmeta().custom_metadata_map


def _workable(image: Image) -> tuple[Image, int]:
    """The image as RapidOCR wants it (BGR) at a size that can be worked on, and the width of the rim around it."""
    height, width = image.shape[:2]
    image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
    scale = min(math.sqrt(MAX_PAGE_PX / (height * width)), MAX_PAGE_SIDE_PX / max(height, width))
    if scale < 1:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), 0
    if min(height, width) >= MIN_SIDE_PX:
        return image, 0
    scale = max(1.0, min(MAX_ENLARGEMENT, MAX_SIDE_PX / max(height, width)))
    size = round(width * scale), round(height * scale)
    larger = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    paper = [int(level) for level in np.median(larger.reshape(-1, 3), axis=0)]
    rim = max(RIM_PX, math.ceil((MIN_PADDED_PX - min(size)) / 2))
    return np.asarray(cv2.copyMakeBorder(larger, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=paper)), rim


def _typed(line: Line, type_: Type | None, page: _Page) -> Line:
    """The line with what its type tells; a box that is higher than wide is left to the layout."""
    (left, top, right, bottom) = line.box
    if type_ is None or bottom - top > (right - left) * page.aspect:
        return line
    return replace(line, size=type_.size / (page.height - 2 * page.rim), is_measured=True, bold=type_.bold)


def _usual_height(quads: list[Quad]) -> float:
    """Of a line of text, in pixels; 0 where there is none."""
    return statistics.median(min(_length(quad, 1), _length(quad, 3)) for quad in quads) if quads else 0.0


def _rules(work: Image, page: _Page, quads: list[Quad], line_px: float) -> list[Rule]:
    """The stretches of rules of the page put straight, in its pixels."""
    grey = cv2.cvtColor(work, cv2.COLOR_BGR2GRAY)
    # Not how dark the page is: a light sheet may lie on a dark ground.
    light = 2 * sum(has_light_letters(_around(grey, quad)) for quad in quads) > len(quads)
    if page.slope:
        grey = cv2.warpAffine(grey, page.turn, (page.width, page.height), borderMode=cv2.BORDER_REPLICATE)
    return find_rules(np.asarray(grey, np.uint8), line_px, light=light)


def _around(grey: Image, quad: Quad) -> Image:
    """What is in the upright box around a line, a pixel at least."""
    inside = np.maximum(quad, 0).astype(int)
    left, top = np.minimum(inside.min(axis=0), (grey.shape[1] - 1, grey.shape[0] - 1)).tolist()
    right, bottom = inside.max(axis=0).tolist()
    return grey[top : max(bottom, top + 1), left : max(right, left + 1)]


def _crossings(level: Any, upright: list[Rule]) -> list[float]:
    """Where rules that are longer than the letters are high go through a level line, as shares of its width."""
    (left, top), (right, bottom) = level.min(axis=0).tolist(), level.max(axis=0).tolist()
    height = bottom - top
    if height >= right - left:
        return []
    near = upright[bisect_left(upright, left, key=_at) : bisect_right(upright, right, key=_at)]
    return [
        (rule.at - left) / (right - left)
        for rule in near
        if rule.start < (top + bottom) / 2 < rule.end and rule.end - rule.start > RULE_RATIO * height
    ]


def _at(rule: Rule) -> float:
    return rule.at


def _pieces(quad: Quad, line: Image, crossings: list[float]) -> list[tuple[Quad, Image]]:
    """A line and its picture, cut at the rules that cross it, and where it is very long."""
    if not crossings:
        return _short(quad, line)
    height, width = line.shape[:2]
    edges = [0, *(round(at * width) for at in crossings), width]
    rim = max(2, round(RULE_RIM * height))
    spans = [(start + rim * (start > 0), end - rim * (end < width)) for start, end in pairwise(edges)]
    spans = [(start, end) for start, end in spans if end - start >= MIN_PART_RATIO * height]
    return [piece for start, end in spans for piece in _short(*_part(quad, line, start, end))]


def _short(quad: Quad, line: Image) -> list[tuple[Quad, Image]]:
    """A line and its picture; if it is very long, in near equal parts, cut through columns with little contrast."""
    height, width = line.shape[:2]
    count = math.ceil(width / (0.9 * MAX_LINE_RATIO * height))
    if width <= MAX_LINE_RATIO * height:
        return [(quad, line)]
    contrast = np.ptp(line.mean(axis=2), axis=0)
    reach = max(1, width // count // 10)
    middles = [width * part // count for part in range(1, count)]
    cuts = [0, *(at - reach + int(contrast[at - reach : at + reach].argmin()) for at in middles), width]
    return [_part(quad, line, start, end) for start, end in pairwise(cuts)]


def _part(quad: Quad, line: Image, left: int, right: int) -> tuple[Quad, Image]:
    """What of a line is between two columns of its picture."""
    # Vertical text comes turned: its picture begins at the top.
    start, end = quad[[0, 3]], quad[[1, 2]]
    if _length(quad, 3) > _length(quad, 1):
        start, end = quad[[1, 0]], quad[[2, 3]]
    one, other = (start + (end - start) * (at / line.shape[1]) for at in (left, right))
    return np.array([one[0], other[0], other[1], one[1]], np.float32), line[:, left:right]


def _length(quad: Quad, corner: int) -> float:
    """From the first corner to this one: 1 is the width of a line, 3 its height."""
    return float(np.linalg.norm(quad[corner] - quad[0]))


def _slope(quads: list[Quad]) -> float:
    """By how many degrees the page is turned clockwise: the angle that the longest lines agree on."""
    tops = [quad[1] - quad[0] for quad in quads if _length(quad, 1) > SLOPE_MIN_RATIO * _length(quad, 3)]
    angles = sorted(math.degrees(math.atan2(y, x)) for x, y in tops)
    return statistics.median_low(angles) if len(angles) >= SLOPE_MIN_LINES else 0.0


@dataclass(frozen=True, slots=True)
class _Page:
    """From pixels of the image worked on to fractions of the page, put straight (level) and as it lies (true)."""

    width: int
    height: int
    #: Pixels around the page that do not belong to it.
    rim: int
    #: Degrees by which the page is turned clockwise.
    slope: float

    @property
    def aspect(self) -> float:
        return (self.width - 2 * self.rim) / (self.height - 2 * self.rim)

    @property
    def turn(self) -> Any:
        """What puts the page straight: a matrix for OpenCV."""
        return cv2.getRotationMatrix2D((self.width / 2, self.height / 2), self.slope, 1)

    def level(self, quad: Quad) -> Any:
        """The corners of a line on the page put straight, in pixels."""
        return cv2.transform(np.asarray(quad, np.float64)[None], self.turn)[0]

    def level_box(self, quad: Quad) -> Box:
        return self._fractions(quad, self.slope)

    def rule_box(self, rule: Rule) -> Box:
        """The box of a rule on the page put straight."""
        sides = (rule.start, rule.at, rule.end, rule.at) if rule.is_level else (rule.at, rule.start, rule.at, rule.end)
        left, top, right, bottom = (side - self.rim for side in sides)
        width, height = self.width - 2 * self.rim, self.height - 2 * self.rim
        return left / width, top / height, right / width, bottom / height

    def true_box(self, box: Box) -> Box:
        if not self.slope:
            return box
        corners = np.array([(x, y) for x in box[::2] for y in box[1::2]])
        return self._fractions(corners * (np.array([self.width, self.height]) - 2 * self.rim) + self.rim, -self.slope)

    def _fractions(self, corners: Any, degrees: float) -> Box:
        """The level box around points turned back by so much around the middle of the page."""
        turn = cv2.getRotationMatrix2D((self.width / 2, self.height / 2), degrees, 1)
        points = cv2.transform(np.asarray(corners, np.float64)[None], turn)[0] - self.rim
        points = np.clip(points / (np.array([self.width, self.height]) - 2 * self.rim), 0, 1)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right, bottom
