"""The live page computes on a GPU what it computes on a CPU."""

import pytest
import torch
from helpers_explore import CROSSCODER, tiny_session

from crossdiff.device import device
from crossdiff.report.live.session import Session, Setting

pytestmark = pytest.mark.gpu
TEXT = "Hello you"
CHANGES = [Setting(1, 3.0), Setting(2, None)]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A session on the GPU: the crosscoder is loaded there."""
    found = tiny_session(tmp_path_factory.mktemp("gpu"))
    for model in (found.pair.base, found.pair.chat):
        model.to(device())
    return found


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Session:
    found = tiny_session(tmp_path_factory.mktemp("cpu"))
    found._crosscoder(CROSSCODER).module.to("cpu")
    return found


def test_a_prompt_has_the_same_latents(session: Session, on_cpu: Session) -> None:
    there, here = (one.latent(CROSSCODER, "text", TEXT, 1)["values"] for one in (session, on_cpu))
    assert there == pytest.approx(here, rel=1e-3, abs=1e-4)
    tops = [one.prompt(CROSSCODER, "text", TEXT)["top"] for one in (session, on_cpu)]
    assert dict(tops[0]) == pytest.approx(dict(tops[1]), rel=1e-3, abs=1e-4)


def test_changes_have_the_same_effect(session: Session, on_cpu: Session) -> None:
    there, here = (one.effect(CROSSCODER, "chat", TEXT, CHANGES) for one in (session, on_cpu))
    assert here["mean"] > 0
    assert there["kl"] == pytest.approx(here["kl"], rel=1e-2, abs=1e-4)


def test_all_three_answers_are_streamed(session: Session) -> None:
    """Two devices may round to another token, so only one of them is asked."""
    steps = list(session.answers(CROSSCODER, "chat", TEXT, CHANGES, 4))
    assert {step["who"] for step in steps if step["done"]} == {"base", "chat", "steered"}
    assert torch.device(session.pair.chat.device).type == "cuda"
