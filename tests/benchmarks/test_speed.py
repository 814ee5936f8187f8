"""The speed benchmark without its timings: when it refuses, what it records, what it prints."""

from __future__ import annotations

import argparse
import json

import pytest

import rounds
import speed
from rounds import Record, Times, disturbance, refusal, rows_of
from speed import BLOCKS, CONTROL, COPY, markdown

QUIET = Times([1.0, 1.1, 1.0, 1.05], [1.0, 1.1, 1.0, 1.05])
BURSTS = Times([1.0, 1.0, 1.5, 1.6, 1.7], [1.0] * 5)
STEADY = Times([2.0, 2.0, 2.1], [1.0, 1.0, 1.05])  # half of the processor is another's throughout


@pytest.mark.parametrize(
    ("control", "threads", "expected"),
    [(QUIET, 1, 0.025), (QUIET, 2, 0.025), (BURSTS, 2, 0.5), (STEADY, 1, 1.0), (STEADY, 2, 0.0)],
)
def test_disturbance_is_the_time_that_the_control_does_not_need(control, threads, expected):
    assert disturbance({CONTROL: control}, threads) == pytest.approx(expected)


def test_a_rival_that_waits_disturbs_too():
    found = {CONTROL: QUIET, "rival": STEADY}  # the control slips through between two slices
    assert disturbance(found, threads=1) == pytest.approx(1.0)


def test_ratios_are_medians_within_rounds():
    # Round by round 2, 3 and 4 times the control: the median of ratios, not the ratio of medians.
    found = {"control": Times([1.0, 1.1, 1.2], [1.0, 1.1, 1.2])}
    found["rival"] = Times([2, 3.3, 4.8], [2, 3.3, 4.8])
    control, rival = rows_of(found, threads=1)
    assert rival["ms"] == 3300
    assert rival["ratio"] == 3
    assert rival["quartiles"] == [2, 4]
    assert control["ratio"] == 1
    assert control["disturbed"] == 0.1
    assert refusal([control, rival]) is None


def test_a_disturbed_control_leaves_no_ratios_and_says_what_to_do():
    rows = rows_of({"control": BURSTS, "rival": QUIET}, threads=2)
    assert not any("ratio" in row or "quartiles" in row for row in rows)
    assert rows[0]["spread_ms"] == [1000, 1700]
    told = refusal(rows)
    assert "50% longer" in told
    assert "1000 to 1700 ms" in told
    assert "same command" in told


def test_works_run_in_turn_and_short_ones_often(monkeypatch):
    clock, calls = [0.0], []

    def work(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(rounds.time, "process_time", lambda: clock[0])
    found = rounds.in_turn({"long": work("long", 1.0), "short": work("short", 3e-3)}, 9.5)
    assert calls[:6] == ["long"] * 3 + ["short"] * 3  # warmed up
    assert calls[6:16] == ["long", *["short"] * 4] * 2
    assert len(found["long"].wall) == len(found["short"].wall) == 10
    assert found["short"].spent == pytest.approx([3e-3] * 10)


def test_a_record_goes_on_where_it_was_left(tmp_path):
    path, key = tmp_path / "speed.json", {"shape": [4, 8], "threads": 1}
    record = Record(path, {"commit": "new"})
    record.put("blocks", key, [{"rival": "a", "disturbed": 0.1}, {"rival": "b", "disturbed": 0.1}])
    record.put("blocks", key | {"threads": 2}, [{"rival": "a", "disturbed": 0.7}])
    again = Record(path, {"commit": "new"})
    assert again.has("blocks", key)
    assert not again.has("blocks", key | {"threads": 2})  # disturbed: measured once more
    assert not again.has("blocks", key | {"threads": 4})
    again.put("blocks", key | {"threads": 2}, [{"rival": "a", "disturbed": 0.2}])
    assert [row["disturbed"] for row in again.rows("blocks")] == [0.1, 0.1, 0.2]
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    later = Record(path, {"commit": "later"})  # another build: nothing of it may stand beside
    assert not later.has("blocks", key)
    later.put("blocks", key, [{"rival": "a"}])
    assert later.rows("blocks") == [key | {"rival": "a", "commit": "later"}]


def recorded(path):
    """A record of one shape: two modes in peace, one disturbed."""
    record = Record(path, {"commit": "c", "device": "box", "torch": "2", "numba": "1"})
    for threads in (1, 2):
        for mode, scale in (("forward", 1.0), ("both", 2.0)):
            key = {"shape": [10, 10], "dtype": "float32", "mode": mode, "threads": threads}
            times = {CONTROL: [scale] * 3, "NormedQAct": [3 * scale] * 3, COPY: [0.1] * 3}
            if threads == 2 and mode == "both":
                times[CONTROL] = [1.0, 2.0, 4.0]
            found = {name: Times(wall, wall) for name, wall in times.items()}
            record.put("blocks", key, rows_of(found, threads))
    seconds = {"cache": "empty cache", "seconds": 1.5, "processor": 1.25}
    record.put("commands", {"what": "qact --help"}, [seconds])
    return Record(path)


def test_the_table_is_made_of_the_record(tmp_path):
    lines = markdown(recorded(tmp_path / "speed.json")).splitlines()
    assert lines[0] == "box, torch 2 (CPU), Numba 1."
    assert [line for line in lines if line.endswith("thread:")] == ["1 thread:"]
    assert [line for line in lines if line.endswith("threads:")] == ["2 threads:"]
    # 100 values in 3 s are 3e7 ns each; a copy takes 1e6, and forward and backward are 2.5 copies.
    assert "|  | BatchNorm + ReLU, ms | NormedQAct | ns a value | floor |" in lines
    assert "| 10x10 forward | 1e+03 | 3.00 | 3e+07 | 1e+06 |" in lines
    assert "| 10x10 both | 2e+03 | 3.00 | 6e+07 | 2.5e+06 |" in lines
    assert "| 10x10 both | 2e+03 | disturbed | 6e+07 | 2.5e+06 |" in lines
    assert lines[-1] == "| qact --help, empty cache | 1.5 | 1.25 |"


def test_what_the_repository_has_recorded_can_be_printed():
    path = speed.ROOT / "benchmarks" / "data" / "speed-cpu.json"
    table = markdown(Record(path))
    rows = [row for row in json.loads(path.read_text())["blocks"] if row["rival"] == CONTROL]
    assert table.count("128x512 eval |") == len([r for r in rows if r["shape"] == [128, 512]]) / 4
    assert table.count("|---") > 20


def test_every_table_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "MAPS", [(6, 2, 2, 2), (6, 2)])
    monkeypatch.setattr(speed, "TOKENS", (3, 2, 2))
    monkeypatch.setattr(rounds, "SHORTEST", 0.0)
    args = argparse.Namespace(part="blocks", threads=[1], seconds=0.0)
    record = Record(tmp_path / "speed.json", {"commit": "c"})
    speed.measure(record, args)
    rows = Record(tmp_path / "speed.json").rows("blocks")
    # Three shapes and a tensor of nothing in float32, one in bfloat16; four modes of six rivals.
    assert len(rows) == 5 * 4 * (len(BLOCKS) + 1)
    assert all(row["ms"] > 0 and row["rounds"] == 3 for row in rows)
    for row in rows:  # whatever the machine was doing
        row["disturbed"] = 0.0
    record.parts["blocks"] = rows
    monkeypatch.setattr(speed, "in_turn", lambda *_: pytest.fail("measured once more"))
    speed.measure(record, args)


def test_commands_are_timed_with_what_their_processes_spend(tmp_path):
    row = speed.ran(["--version"], str(tmp_path))
    assert row["processor"] > 0
    assert row["seconds"] > 0
