"""What goes into an engine for one page and what comes out, and the protocol every engine keeps.

Boxes here are fractions of the page as a person sees it (after rotation), origin top left, so that they hold for
any rendering of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from deepseek_ocr.prompt import ModeChoice, Options, Task
    from deepseek_ocr.tile_memory import StoredTiles
    from deepseek_ocr.tiles import Tiles

#: No page takes longer, unless an engine says otherwise.
LONGEST_PAGE_S: Final = 600.0

#: (left, top, right, bottom), each 0 to 1, origin top left of the page as displayed.
Box = tuple[float, float, float, float]

FinishReason = Literal["stop", "length", "abort", "repetition", "error"]

#: What of a page's picture an engine looks at: nothing, its pixels, the views and crops that the model sees
#: (`tiles.py`), or a PNG file.  A worker process makes it, never the event loop.
Needs = Literal["nothing", "pixels", "tiles", "png"]


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of text with its place on the page, in reading order among its neighbours."""

    #: The model's own word for it: title, sub_title, text, table, image, equation, ...; open vocabulary.
    label: str
    text: str
    box: Box
    #: 0 to 1; None where the engine gives none.
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class PageImage:
    """One page as an engine gets it."""

    #: 0-based.
    page_index: int
    #: Size of the page as displayed, in `unit`.
    width: float
    height: float
    #: "pt" = 1/72 inch (PDF), "px" = pixels of the original picture.
    unit: Literal["pt", "px"]
    #: (height_px, width_px, 3) RGB; None unless the engine needs just these.
    pixels: NDArray[np.uint8] | None
    #: Share of the page that is not background, 0 to 1; 0 is a blank page.
    ink: float
    #: The text embedded in the file (PDF only), in reading order; a page that comes as tiles lacks it, as finding it
    #: takes as long as they do and it is rarely asked for.
    text_layer: tuple[Region, ...] = ()
    #: What of the page is known to be lost (a cut-off picture, a torn content stream), in words; empty = nothing.
    damage: str = ""
    #: What the model sees; None unless the engine needs it.
    tiles: Tiles | None = None
    #: The same, where they lie in shared memory (`tile_memory.py`).
    stored: StoredTiles | None = None
    #: The picture as a PNG file; empty unless the engine needs it.
    png: bytes = b""
    #: (rows, columns) over the whole page: what is ink, and what of it looks like text (`ink.py`); None where the page
    #: was not rendered.
    ink_grid: NDArray[np.uint8] | None = None
    #: Whether the lines of text run from top to bottom, or from bottom to top.
    sideways: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine gives for one page."""

    text: str
    finish_reason: FinishReason
    #: Wall time from the request to the last token, in seconds.
    seconds: float
    #: The text in pieces with their boxes, where the engine knows them by itself (a model writes them into `text`).
    regions: tuple[Region, ...] = ()
    prompt_tokens: int = 0
    #: Estimated where the page was given up in the middle, 0 where nobody counts.
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and what may be asked of it; part of every manifest and checkpoint."""

    #: The name in the configuration: cpu, textlayer, vllm, ...
    name: str
    #: The model that reads, precise enough that another value means other results.
    model: str
    tasks: frozenset[Task]
    #: What `recognize` looks at.
    needs: Needs
    #: Pages worth having in flight at once.
    capacity: int
    #: Scripts it reads, for people; empty = not limited by the engine.
    scripts: tuple[str, ...] = field(default=())
    #: The resolution it reads with unless asked for another; None where it has no modes.
    mode: ModeChoice | None = None
    #: Pages in flight and none came back for so many seconds: it hangs, and does not know it.  Infinite where a page
    #: may take as long as it likes while its tokens come, which the engine itself watches.
    longest_page_s: float = LONGEST_PAGE_S
    #: Whether it is a language model that is asked in words: other words may give another answer.
    prompted: bool = False
    #: Whether it heeds `Options.guard`.
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine can take a page now, in a word and a sentence."""

    ok: bool
    detail: str


class Engine(Protocol):
    """A resident recognizer; `start` once, `recognize` from many tasks at once, `stop` once."""

    @property
    def info(self) -> EngineInfo:
        """Known before `start`."""
        ...

    async def start(self) -> None:
        """Load the model and make it ready; raises `EngineStartError`."""
        ...

    async def recognize(
        self, page: PageImage, options: Options, on_text: Callable[[str], None] | None = None
    ) -> Completion:
        """Read one page; raises `PageError` for this page only, `EngineDeadError` for the engine.

        `on_text` is called with all the text so far whenever there is more of it; engines that have it only at the
        end do not call it.  It begins anew where the page had to be.  Cancelling the call gives the page up.
        """
        ...

    async def stop(self) -> None:
        """Release everything; pages in flight are lost.  Safe to call twice and before `start`."""
        ...

    def health(self) -> Health:
        """The state of the engine, without waiting."""
        ...
