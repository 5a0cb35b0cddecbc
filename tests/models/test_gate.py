"""The gate passes what is better and measured, and nothing else."""

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.errors import GateFailed, UnknownVersion
from rossmann.models.gate import Verdict, judge, validate
from rossmann.models.registry import ModelVersion, Registry
from rossmann.schema import Stage
from rossmann.settings import load_settings

TOLERANCE = 0.0005
SCORES = st.floats(0.01, 0.5)


def window(ensemble: Any, naive: Any = 0.17, origin: str = "2015-04-26", days: int = 48) -> dict:
    return {
        "origin": origin,
        "days": days,
        "rows": 40000,
        "rmspe": {"ensemble": ensemble, "seasonal_naive": naive},
    }


def made(version: int, *windows: dict, data: str = "abc", dataset: str = "demo") -> ModelVersion:
    tags = {
        "windows": json.dumps(list(windows)),
        "data.version": data,
        "data.dataset": dataset,
    }
    return ModelVersion(version, Stage.NONE, "run", datetime.now(UTC), tags)


def checks(verdict: Verdict) -> list[tuple[str, bool]]:
    return [(line.check, line.passed) for line in verdict.lines]


@given(ensemble=SCORES, naive=SCORES)
def test_the_first_version_must_beat_the_naive(ensemble: float, naive: float) -> None:
    assert judge(made(1, window(ensemble, naive)), None, TOLERANCE).passed == (ensemble < naive)


@given(scores=st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4))
def test_it_must_do_so_on_every_window(scores: list[tuple[float, float]]) -> None:
    windows = [window(e, n, f"2015-04-{i + 10}") for i, (e, n) in enumerate(scores)]
    verdict = judge(made(1, *windows), None, TOLERANCE)
    assert [line.passed for line in verdict.lines] == [e < n for e, n in scores]
    assert verdict.passed == all(e < n for e, n in scores)


@given(mine=SCORES, theirs=SCORES)
def test_a_later_version_is_no_worse_than_the_serving_one(mine: float, theirs: float) -> None:
    verdict = judge(made(2, window(mine, 0.6)), made(1, window(theirs, 0.6)), TOLERANCE)
    assert verdict.against == 1
    assert verdict.passed == (mine <= theirs + TOLERANCE)


@given(mine=SCORES, theirs=SCORES, slack=st.floats(0, 0.01))
def test_a_better_score_never_fails_where_a_worse_one_passes(
    mine: float, theirs: float, slack: float
) -> None:
    serving = made(1, window(theirs, 0.3))
    worse = judge(made(2, window(mine, 0.3)), serving, TOLERANCE).passed
    better = judge(made(2, window(max(mine - slack, 0.001), 0.3)), serving, TOLERANCE).passed
    assert better >= worse


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (made(2, window(0.15), data="new"), "data.version new, not abc"),
        (made(2, window(0.15), dataset="rossmann"), "data.dataset rossmann, not demo"),
        (made(2, window(0.15, origin="2014-06-13")), "no window in common"),
        (made(2, window(0.15, days=42)), "no window in common"),
    ],
)
def test_what_cannot_be_compared_is_said_and_held_to_the_baseline(
    candidate: ModelVersion, why: str
) -> None:
    serving = made(1, window(0.10))
    verdict = judge(candidate, serving, TOLERANCE)
    assert verdict.passed  # though 0.15 is worse than 0.10
    assert "not comparable" in verdict.table()
    assert why in verdict.table()
    bad = ModelVersion(
        2, Stage.NONE, "run", candidate.created,
        {**candidate.tags, "windows": candidate.tags["windows"].replace("0.15", "0.18")},
    )  # fmt: skip
    assert not judge(bad, serving, TOLERANCE).passed


def test_only_shared_windows_are_compared() -> None:
    candidate = made(2, window(0.10), window(0.16, origin="2014-06-13"))
    verdict = judge(candidate, made(1, window(0.10)), TOLERANCE)
    assert checks(verdict) == [
        ("2015-04-26: below seasonal naive", True),
        ("2014-06-13: below seasonal naive", True),
        ("2015-04-26: no worse than version 1", True),
    ]


NO_MEASURE = [None, math.nan, math.inf, -math.inf, -0.1, 0, "0.09", True, [0.09]]


@pytest.mark.parametrize("value", NO_MEASURE)
def test_what_is_no_measure_fails(value: object) -> None:
    assert not judge(made(1, window(value)), None, TOLERANCE).passed
    assert not judge(made(1, window(0.09, value)), None, TOLERANCE).passed
    both = judge(made(2, window(0.09)), made(1, window(value)), TOLERANCE)
    assert checks(both)[-1] == ("2015-04-26: no worse than version 1", False)
    assert not both.passed


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", "null", "7", "[7]", "[null]", '[{"days": 48}]', "nonsense"]
)
def test_windows_that_are_missing_or_unreadable_fail(text: str | None) -> None:
    version = made(1)
    tags = {k: v for k, v in version.tags.items() if k != "windows"}
    tags |= {} if text is None else {"windows": text}
    verdict = judge(ModelVersion(1, Stage.NONE, "", version.created, tags), None, TOLERANCE)
    assert not verdict.passed
    assert "FAILED" in verdict.table()


def test_a_window_without_scores_fails() -> None:
    bare = {"origin": "2015-04-26", "days": 48}
    assert not judge(made(1, window(0.1, origin="2014-06-13"), bare), None, TOLERANCE).passed


def test_no_checks_are_no_pass() -> None:
    assert not Verdict(1, None, []).passed


def test_the_error_holds_the_table() -> None:
    verdict = judge(made(3, window(0.2, 0.17)), None, TOLERANCE)
    with pytest.raises(GateFailed, match="version 3") as told:
        verdict.require()
    assert verdict.table() in str(told.value)
    judge(made(3, window(0.1, 0.17)), None, TOLERANCE).require()


def test_the_table_gives_each_line_its_numbers_and_verdict() -> None:
    table = judge(made(2, window(0.0912)), made(1, window(0.0901)), TOLERANCE).table().splitlines()
    assert table[0].split() == ["check", "value", "limit", "verdict"]
    assert table[1].split()[-3:] == ["0.0912", "0.1700", "passed"]
    assert table[2].split()[-3:] == ["0.0912", "0.0906", "FAILED"]


def register(uri: str, name: str, version: ModelVersion) -> None:
    """A version with tags and no files: the gate reads nothing else."""
    with httpx.Client(base_url=f"{uri}/api/2.0/mlflow", timeout=30, trust_env=False) as client:
        client.post("/registered-models/create", json={"name": name})
        tags = [{"key": k, "value": v} for k, v in version.tags.items()]
        fields = {"name": name, "source": "s3://none/model", "tags": tags}
        client.post("/model-versions/create", json=fields).raise_for_status()


def test_the_verdict_stays_on_the_version(mlflow_server: str) -> None:
    name = f"gate-{time.time_ns()}"
    settings = load_settings(mlflow_tracking_uri=mlflow_server, gate_tolerance=TOLERANCE)
    for version in (made(1, window(0.10)), made(2, window(0.12)), made(3, window(0.09))):
        register(mlflow_server, name, version)
    with Registry(mlflow_server, name) as registry:
        assert validate(registry, 1, settings).passed
        registry.promote(1, "first", "me")
        assert validate(registry, "1", settings).against is None  # not against itself
        assert not validate(registry, 2, settings).passed
        assert validate(registry, 3, settings).passed
        tags = {v.version: v.tags for v in registry.versions()}
        assert [tags[n]["gate.passed"] for n in (1, 2, 3)] == ["true", "false", "true"]
        assert tags[2]["gate.against"] == "1"
        lines = json.loads(tags[2]["gate.table"])
        assert [line["passed"] for line in lines] == [True, False]
        with pytest.raises(UnknownVersion):
            validate(registry, 9, settings)
