"""An imported crosscoder must explain something on held-out tokens of this pair."""

import pytest

from crossdiff.crosscoders.quality import check_explains
from crossdiff.errors import UserError

IMPORTED = {"training": {"imported": {"hub": {"name": "owner/theirs", "revision": "main"}, "layer": 3}}}


def quality(base: float | None, chat: float | None, **more: float) -> dict[str, object]:
    return {"fve_base": base, "fve_chat": chat, "l0": 3.0} | more


@pytest.mark.parametrize(("base", "chat"), [(-0.5, 0.9), (0.9, 0.0), (float("nan"), 0.5)])
def test_one_that_explains_nothing_of_a_model_is_refused(base, chat):
    with pytest.raises(UserError, match=r"owner/theirs explains nothing .* at layer 3 \(FVE of base "):
        check_explains(quality(base, chat), IMPORTED)


def test_one_that_fits_and_a_difference_that_fits_are_taken():
    check_explains(quality(0.1, 0.2), IMPORTED)
    check_explains(quality(None, None, fve_difference=0.1), IMPORTED)
    with pytest.raises(UserError, match=r"FVE of difference -0\.10"):
        check_explains(quality(None, None, fve_difference=-0.1), IMPORTED)


def test_training_of_this_run_is_never_refused():
    check_explains(quality(-1.0, -1.0), {"training": {"loss": "l1"}})
    check_explains(quality(-1.0, -1.0), {})
