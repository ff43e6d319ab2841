"""No cell from outside is computed by a spreadsheet, and every name comes back as it was."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orsanet_cache.data.cells import marked, unmarked

COMPUTED = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


@pytest.mark.parametrize("begin", COMPUTED)
def test_what_would_be_computed_is_text(begin: str) -> None:
    assert marked(f"{begin}1+1.jpg") == f"'{begin}1+1.jpg"
    assert unmarked(f"{begin}1+1.jpg") == f"{begin}1+1.jpg"  # as a person writes it


@given(st.text(alphabet=st.sampled_from([*"'=+-@a\t", "\uff1d"]), max_size=5) | st.text())
@example("'=1")
@example("''=1")
@example("'plain'")
def test_every_text_comes_back_and_begins_harmlessly(text: str) -> None:
    assert unmarked(marked(text)) == text
    assert not marked(text).startswith(COMPUTED)
    if not text.lstrip("'").startswith(COMPUTED):
        assert marked(text) == text
