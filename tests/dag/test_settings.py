"""A change of a setting runs exactly the jobs that depend on it. Scripts read exactly what rules declare."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY, Checkout, planned

from crossdiff.config import Config, Section, load
from crossdiff.provenance.planned_jobs import plan
from crossdiff.provenance.records import Record, read_record

FILE = ROOT / "tests/dag/first_affected.yaml"
TABLE: dict[str, dict[str, Any]] = {
    key: row if isinstance(row, dict) else {"first": row}
    for key, row in yaml.safe_load(FILE.read_text()).items()
}


def complete() -> dict[str, Any]:
    """The tiny config with all defaults, flat: every key that anybody can change.

    Its models have no names of their own in ``models``: tests/pipeline/test_two_chats.py is about these.
    """

    def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(f"{name}.{key}".lstrip("."), inner)
        else:
            yield name, value

    values = load(yaml.safe_load((ROOT / TINY).read_text())).model_dump(mode="json", by_alias=True)
    return dict(flat("", {key: value for key, value in values.items() if key not in ("models", "pairs")}))


KEYS = complete()


def other(value: Any) -> Any:
    """Give another value of the same kind; None where the table has to give one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.1 + 0.01 if isinstance(value, float) else None


def changed_config(finished: Checkout, key: str, name: str) -> str:
    """Change one key of the tiny config, and what the table says has to change with it."""
    row = TABLE[key]
    config = finished.changed(TINY, {key: row.get("to", other(KEYS[key]))} | row.get("with", {}), name)
    values = yaml.safe_load((finished.folder / config).read_text())
    for gone in row.get("without", []):
        *parents, leaf = gone.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section.pop(leaf, None)
    (finished.folder / config).write_text(yaml.safe_dump(values))
    return config


def expected(finished: Checkout, row: dict[str, Any]) -> Counter[str]:
    """{rule: number of jobs} that should run: jobs of the first rules, and all that follow from them.

    Of the first rules only jobs count whose outputs contain ``only``.
    """
    jobs = plan(finished.folder, [Path(TINY)])
    records = {(record := read_record(finished.folder / output)).id: record for output in jobs}
    rules = [row["first"]] if isinstance(row["first"], str) else row["first"]
    only = row.get("only", "")
    part = {rule: only.get(rule, "") if isinstance(only, dict) else only for rule in rules}
    affected = {
        name: record
        for name, record in records.items()
        if record.rule in part and part[record.rule] in record.outputs[0].path
    }
    while True:
        made = {entry.path for record in affected.values() for entry in record.outputs}
        more = {
            name: record
            for name, record in records.items()
            if name not in affected and follows(record, made, jobs)
        }
        if not more:
            break
        affected |= more
    counts = Counter(record.rule for record in affected.values())
    counts.update(row.get("new", {}))
    return Counter({rule: count for rule, count in counts.items() if rule not in row.get("gone", [])})


def follows(record: Record, made: set[str], jobs: dict[str, Any]) -> bool:
    return any(
        entry.path in made and entry.path not in jobs[record.outputs[0].path].order_only
        for entry in record.inputs
    )


def test_table_has_a_row_for_every_key_and_no_other() -> None:
    missing = sorted(KEYS.keys() - TABLE.keys())
    assert not missing, (
        f"{FILE.name} lacks a row for {', '.join(missing)}: add 'key: "
        "first rule that runs again when it changes'"
    )
    assert not TABLE.keys() - KEYS.keys(), f"{FILE.name} has rows for keys that {TINY} does not have"
    unchanged = [key for key in KEYS if other(KEYS[key]) is None and "to" not in TABLE[key]]
    assert not unchanged, (
        f"{FILE.name}: the test can't make up another value, give 'to: value' for {', '.join(unchanged)}"
    )


def test_every_key_runs_what_depends_on_it_and_nothing_else(finished: Checkout) -> None:
    """A real dry-run per key."""
    wrong = []
    keys = sorted(KEYS.keys() & TABLE.keys())
    configs = {key: changed_config(finished, key, f"changed.{key}") for key in keys}
    result = finished.run("-m", "planner", *configs.values(), PYTHONPATH=str(ROOT / "tests/helpers"))
    assert result.returncode == 0, result.stdout
    plans = json.loads(result.stdout.splitlines()[-1])
    for key in keys:
        code, printed = plans[configs[key]]
        if "refused" in TABLE[key]:
            if TABLE[key]["refused"] not in printed:
                wrong.append(f"{key}: should be refused with {TABLE[key]['refused']!r}")
            continue
        assert code == 0, printed
        runs, wanted = Counter(planned(printed)) - Counter(["all"]), expected(finished, TABLE[key])
        if runs != wanted:
            wrong.append(
                f"{key}: would run {dict(runs) or 'nothing'}; by the table it should run {dict(wanted)}"
            )
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("key", ["crosscoders.batchtopk.k", "behaviour.requests", "seeds"])
def test_plan_of_a_fork_is_that_of_a_fresh_python(finished: Checkout, key: str) -> None:
    arguments = ["--dry-run", "--configfile", changed_config(finished, key, "fork")]
    fresh, warm = (finished.run("-m", "snakemake", *arguments, fresh=is_fresh) for is_fresh in (True, False))
    planner = finished.run("-m", "planner", arguments[-1], PYTHONPATH=str(ROOT / "tests/helpers"))
    code, forked = json.loads(planner.stdout.splitlines()[-1])[arguments[-1]]
    assert fresh.returncode == warm.returncode == code
    assert planned(fresh.stdout) == planned(warm.stdout) == planned(forked) != {}
    assert messages(fresh.stdout) == messages(warm.stdout) == messages(forked) != []


def messages(printed: str) -> list[str]:
    """Give the messages of all jobs of a dry-run."""
    return sorted(re.findall(r"^Job \d+: (.*)$", printed, re.MULTILINE))


def test_new_crosscoder_runs_only_its_own_branch(finished: Checkout) -> None:
    values = yaml.safe_load((ROOT / TINY).read_text())["crosscoders"]
    config = finished.changed(
        TINY, {"crosscoders": values | {"another": values["l1"] | {"l1_coefficient": 0.1}}}
    )
    jobs = planned(finished.snakemake("--dry-run", "--configfile", config).stdout)
    assert jobs["train_crosscoder"] == jobs["scale_latents"] == jobs["evaluate_crosscoder"] == 2
    assert not {
        "finetune_model",
        "tokenise",
        "harvest_activations",
        "summarise_activations",
        "measure_refusals",
    } & set(jobs)


# Declared and read.


def trace(finished: Checkout) -> dict[str, dict[str, set]]:
    """Rule -> the keys that its jobs declared, and the fields of typed settings that they read."""
    found: dict[str, dict[str, set]] = {}
    for path in (finished.folder / "trace").glob("*.json"):
        job = json.loads(path.read_text())
        rule = found.setdefault(job["rule"], {"declared": set(), "fields": set()})
        for name, items in rule.items():
            items |= {tuple(item) if isinstance(item, list) else item for item in job[name]}
    return found


def field_of(key: str, config: Config) -> tuple[str, str]:
    """The typed field that holds a key: (class that first has it, field)."""
    place: Any = config
    found = ("", "")
    for part in key.split("."):
        if isinstance(place, Section):
            name = next(
                name for name, field in type(place).model_fields.items() if part in (name, field.alias)
            )
            owner = next(
                base for base in reversed(type(place).__mro__) if name in getattr(base, "model_fields", {})
            )
            found, place = (owner.__name__, name), getattr(place, name)
        else:
            place = place[part]
    return found


def test_every_rule_was_traced(finished: Checkout) -> None:
    assert set(trace(finished)) == {job.rule for job in plan(finished.folder, [Path(TINY)]).values()}


def test_scripts_read_what_their_rules_declare_and_only_that(finished: Checkout) -> None:
    config = load(yaml.safe_load((ROOT / TINY).read_text())).seen_by({})
    wrong = []
    for rule, found in sorted(trace(finished).items()):
        fields = {key: field_of(key, config) for key in found["declared"]}
        parents = {
            key.rsplit(".", depth)[0] for key in found["declared"] for depth in range(1, key.count(".") + 1)
        }
        sections = {field_of(key, config) for key in parents}
        unread = [key for key in sorted(found["declared"]) if fields[key] not in found["fields"]]
        undeclared = sorted(found["fields"] - set(fields.values()) - sections)
        wrong += [f"{rule} declares {key} and does not read it" for key in unread]
        wrong += [f"{rule} reads {section}.{field} and does not declare it" for section, field in undeclared]
    assert not wrong, "\n".join(wrong)
