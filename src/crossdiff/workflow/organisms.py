"""Check that a config and its file of organisms belong together. Torch-free."""

from crossdiff.errors import UserError
from crossdiff.texts.organisms import read_organisms
from crossdiff.workflow.run import Run


def check_organisms(run: Run) -> None:
    """Check that pairs, and what models are taught, have names of ``organisms.texts``.

    Raises UserError for other names, and for a malformed file.
    """
    organisms = run.config.organisms
    if organisms is None:
        return
    allowed = read_organisms(organisms.texts).names
    named = {f"pairs: found {seen.pair.name}": seen.pair.name for seen in run.comparisons}
    for model in run.finetuned:
        key = f"{run.config.key_of(model)}.finetune.data"
        taught = set(run.finetune(model).data) - set(run.read_by(model))
        named |= {f"{key}: found {name}, which is no data set": name for name in sorted(taught)}
    for found, name in named.items():
        if name not in allowed:
            raise UserError(f"{found}; {organisms.texts} allows: {', '.join(allowed)}")
