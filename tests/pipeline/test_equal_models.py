"""Two copies of one model: the first look says so, and the run stops before training unless told not to."""

from conftest import TINY, Checkout

MODEL = {"layers": 3, "d_model": 32, "chat_template": "data/plain.jinja", "seed": 0}
WEIGHTS = "results/tiny/layer1/batchtopk/seed0/weights.safetensors"
EQUAL = {
    "pair.chat": {"random": MODEL},
    "crosscoders.l1": None,
    "seeds": [0],
    "first_look.conversations": 2,
    **dict.fromkeys(("behaviour", "causal", "steering", "catalogue")),
}


def test_run_stops_before_training_and_goes_on_where_equal_models_are_allowed(checkout: Checkout) -> None:
    config = checkout.changed(TINY, EQUAL, "equal")
    stopped = checkout.snakemake(WEIGHTS, "-c2", "--configfile", config)
    assert stopped.returncode != 0
    assert "pair: the two models do not differ, neither in activations nor in predictions" in stopped.stdout
    page = (checkout.folder / "results/tiny/first_look.html").read_text()
    assert "do not differ" in page
    assert not (checkout.folder / WEIGHTS).exists()
    assert "Training crosscoder" not in stopped.stdout
    allowed = checkout.changed(config, {"first_look.equal_models": "allow"}, "allowed")
    went_on = checkout.snakemake(WEIGHTS, "-c2", "--configfile", allowed)
    assert went_on.returncode == 0, went_on.stdout
    assert (checkout.folder / WEIGHTS).exists()
