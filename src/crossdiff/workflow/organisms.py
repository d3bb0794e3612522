"""Check that a config and its file of organisms belong together. Torch-free."""

from crossdiff.errors import UserError
from crossdiff.texts.organisms import can_show, held_out_requests, read_organisms
from crossdiff.workflow.run import Run


def check_organisms(run: Run) -> None:
    """Check that pairs, and what models are taught, have names of ``organisms.texts``.

    Raises UserError for other names, for a malformed file, and for a behaviour with so few held-out requests
    that no number of answers could show it.
    """
    organisms = run.config.organisms
    if organisms is None:
        return
    texts = read_organisms(organisms.texts)
    for name in texts.behaviours:
        if not can_show(requests := len(held_out_requests(texts, name))):
            raise UserError(
                f"{organisms.texts}: behaviours.{name}: found {requests} held-out requests, and even all of "
                "them could be chance; add prompts or topics below held_out"
            )
    allowed = texts.names
    named = {f"pairs: found {seen.pair.name}": seen.pair.name for seen in run.comparisons}
    for model in run.finetuned:
        key = f"{run.config.key_of(model)}.finetune.data"
        taught = set(run.finetune(model).data) - set(run.read_by(model))
        named |= {f"{key}: found {name}, which is no data set": name for name in sorted(taught)}
    for found, name in named.items():
        if name not in allowed:
            raise UserError(f"{found}; {organisms.texts} allows: {', '.join(allowed)}")
