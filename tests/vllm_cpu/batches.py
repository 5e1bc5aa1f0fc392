"""The life of a batch as vLLM's `InputBatch` keeps it: requests join, leave, slide down into gaps and swap rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdateBuilder, MoveDirectionality

from tests.repeats import answers, rules

if TYPE_CHECKING:
    from vllm.v1.sample.logits_processor import BatchUpdate

    from deepseek_ocr.guard import Rule


class Request(NamedTuple):
    """What a row holds."""

    rule: Rule | None
    #: The ids it shows to the processors, always the same list.
    shown: list[int]
    #: The ids that it ought to have.
    output_ids: list[int]


def params(rule: Rule | None) -> SamplingParams:
    """A request that asks for a rule, or for none."""
    if rule is None:
        return SamplingParams(temperature=0)
    asked = {"ngram_size": rule.ngram_size, "window_size": rule.window_size, "whitelist_token_ids": [*rule.whitelist]}
    return SamplingParams(temperature=0, extra_args=asked)


class Batch:
    """The rows, and what is told of their changes."""

    def __init__(self) -> None:
        self._builder = BatchUpdateBuilder()
        self._rows: list[Request | None] = []

    @property
    def requests(self) -> list[Request]:
        """By row."""
        return [request for request in self._rows if request is not None]

    def change(self, data: st.DataObject) -> BatchUpdate | None:
        """Any change from one step to the next; some of those that leave come back with their real ids."""
        indices = st.integers(0, max(0, len(self._rows) - 1))
        some = st.sets(indices, max_size=3) if self._rows else st.just(set[int]())
        joining = []
        back = data.draw(some, label="come back")
        for row in data.draw(some, label="leave"):
            self._builder.removed_append(row)
            left, self._rows[row] = self._rows[row], None
            if left is not None and row in back:
                joining.append((left.rule, left.output_ids))
        new = st.tuples(st.one_of(st.none(), rules(), rules()), answers())
        for rule, output_ids in [*joining, *data.draw(st.lists(new, max_size=3), label="join")]:
            self._join(rule, output_ids)
        self._condense()
        if len(self._rows) > 1:
            pairs = st.lists(st.sampled_from(range(len(self._rows))), min_size=2, max_size=2, unique=True)
            for one, other in data.draw(st.lists(pairs, max_size=3), label="swap"):
                self._builder.moved.append((one, other, MoveDirectionality.SWAP))
                self._rows[one], self._rows[other] = self._rows[other], self._rows[one]
        return self._builder.get_and_reset(len(self._rows))

    def _join(self, rule: Rule | None, output_ids: list[int]) -> None:
        """Into the lowest free row, as `InputBatch._register_add_request` does; ids, since it may be a resumed one."""
        row = self._builder.pop_removed()
        request = Request(rule, list(output_ids), list(output_ids))
        if row is None:
            row = len(self._rows)
            self._rows.append(request)
        else:
            self._rows[row] = request
        self._builder.added.append((row, params(rule), None, request.shown))

    def _condense(self) -> None:
        """The last requests into the lowest gaps, as `InputBatch.condense` does."""
        gaps = self._builder.removed
        while gaps:
            while self._rows and self._rows[-1] is None:
                self._rows.pop()
            gap = self._builder.peek_removed()
            assert gap is not None
            if gap >= len(self._rows):
                break
            self._builder.pop_removed()
            self._builder.moved.append((len(self._rows) - 1, gap, MoveDirectionality.UNIDIRECTIONAL))
            self._rows[gap] = self._rows.pop()
