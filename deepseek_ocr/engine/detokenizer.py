"""The text of an answer whose tokens come in bundles.

vLLM decodes each token by itself, on the event loop; a bundle at once takes a fifth of that (bench/LOG.md).  Tokens of
this model stand for bytes, so bundles give the text of all tokens together, as long as no character is cut in two.
Residual risk: with a tokenizer of another kind a space may be lost where a bundle ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Bytes that are no character, or none yet.
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
#: Of one character in UTF-8, each of which may be a token.
MAX_BYTES: Final = 4


class Detokenizer:
    """Text of one answer, as vLLM's own incremental detokenizer gives it in all."""

    def __init__(self, tokenizer: Any, eos: int) -> None:
        """`tokenizer` is a fast one of transformers; `eos` at the end of a bundle ends the answer and is no text."""
        self._decode = tokenizer.backend_tokenizer.decode
        self._eos = eos
        self._held: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens and of those before that were held; a character that is not whole is held."""
        self._held += token_ids[:-1] if token_ids and token_ids[-1] == self._eos else token_ids
        for count in range(len(self._held), max(0, len(self._held) - MAX_BYTES), -1):
            text: str = self._decode(self._held[:count], skip_special_tokens=False)
            if not text.endswith(REPLACEMENT):
                del self._held[:count]
                return text
        return ""

    def finish(self) -> str:
        """What was held; the bytes at the end that became no character are left out."""
        text: str = self._decode(self._held, skip_special_tokens=False)
        self._held.clear()
        return text.rstrip(REPLACEMENT)
