"""Stop the run if the two models do not differ."""

from crossdiff.config import FirstLook
from crossdiff.errors import UserError
from crossdiff.provenance.storage import read_json, write_json
from crossdiff.workflow.job import job


def main(summary: str, page: str, settings: FirstLook, facts: str) -> None:
    found = read_json(summary)
    if settings.equal_models == "stop" and found["equal"]:
        raise UserError(
            "pair: the two models do not differ, neither in activations nor in predictions, so a crosscoder "
            f"has nothing to find ({page}); name another model, or set first_look.equal_models: allow"
        )
    write_json(facts, {name: found[name] for name in ("equal", "kl", "largest_difference")})


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            summary=snakemake.input.summary,
            page=snakemake.input.page,
            settings=settings.first_look,
            facts=snakemake.output[0],
        )
