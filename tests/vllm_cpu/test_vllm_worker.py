"""What our worker does otherwise than vLLM's gives the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.multimodal.utils import get_mm_features_in_window

from deepseek_ocr.engine.vllm_worker import features_in_window


@given(
    places=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), max_size=3),
    start=st.integers(0, 60),
    count=st.integers(0, 30),
)
def test_pictures_in_a_window_are_those_of_vllm(places: list[tuple[int, int]], start: int, count: int) -> None:
    """For any number of pictures one behind the other, any window."""
    features, offset = [], 0
    for gap, length in places:
        place = PlaceholderRange(offset=offset + gap, length=length)
        features.append(MultiModalFeatureSpec(data=None, modality="image", identifier="x", mm_position=place))
        offset = place.offset + length
    wanted = get_mm_features_in_window(features, start, start + count)
    assert range(*features_in_window(features, start, start + count)) == range(*wanted)
