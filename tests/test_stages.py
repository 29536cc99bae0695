"""bench.stages measures by functions' names: they are looked up, and what has no sample is no small figure."""

from __future__ import annotations

import shutil

import pytest

from bench import stages
from bench.stages import STAGES, Stage

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")

REPORT = """\
# Children      Self  Symbol
# ........  ........  ......................................
#
    61.02%     0.00%  [.] _PyEval_EvalFrameDefault
    27.11%     1.30%  [.] __pyx_f_3ext_3net_7receive_decode
     9.50%     0.10%  [.] rocksdb::DBImpl::Write(rocksdb::WriteOptions const&, rocksdb::WriteBatch*)      -      -
     3.00%     0.00%  [k] __x64_sys_sendmsg
     2.00%     0.00%  [.] __pyx_pw_3ext_3net_5plane_5Plane_13flush.constprop.0
"""


@needs_nm
def test_every_stage_names_a_function_that_is_compiled():
    lost = [
        stage.title
        for home in ("ext", "rocksdict")
        for names in [stages.symbols(home)]
        for stage in STAGES
        if stage.home == home and not stages.is_known(stage, names)
    ]
    assert not lost


@needs_nm
def test_unknown_stage_is_named_before_the_measurement(monkeypatch, capsys):
    monkeypatch.setattr(stages, "STAGES", (*STAGES, Stage("decode", r"plane_5Plane__decode")))
    monkeypatch.setattr(stages, "measure", lambda *_: pytest.fail("it has measured"))
    monkeypatch.setattr(stages.shutil, "which", lambda program: program)
    assert stages.main() == 1
    assert capsys.readouterr().err == "'decode': no function of ext is named plane_5Plane__decode\n"


def test_what_is_needed_and_is_not_here_is_said(monkeypatch, capsys):
    monkeypatch.setattr(stages.shutil, "which", lambda program: None if program == "perf" else program)
    assert stages.main() == 2
    assert "needs perf" in capsys.readouterr().err


def test_shares_come_from_perf_and_a_missing_stage_says_so():
    rows = {line.split(" | ")[0].strip("| "): line for line in stages.table("load", 10.0, stages.read_report(REPORT))}
    assert rows["decode frames, and what sinks do"].endswith("| 2.71 | 27 % |")
    assert rows["journal: write"].endswith("| 0.95 | 10 % |")
    assert rows["- the kernel's part of it"].endswith("| 0.30 | 3 % |")
    assert rows["send: flush"].endswith("| 0.20 | 2 % |")
    assert rows["take a batch"].endswith("| no sample | |")
    assert len(rows) == len(STAGES) + 4


@needs_nm
def test_unmeasurable_load_is_told_and_leaves_nothing_running(monkeypatch, capsys):
    started, popen, run = [], stages.subprocess.Popen, stages.subprocess.run

    def failing(command, **options):
        if command[0] == "perf":
            raise stages.subprocess.CalledProcessError(255, command, stderr="not permitted\n")
        return run(command, **options)

    def noted(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(stages.subprocess, "Popen", noted)
    monkeypatch.setattr(stages.subprocess, "run", failing)
    monkeypatch.setattr(stages.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(stages.shutil, "which", lambda program: program)
    assert stages.main() == 1
    assert capsys.readouterr().err == "perf has failed: not permitted\n"
    pinned = [process for process in started if process.args[0] == "taskset"]
    assert len(pinned) == 2
    assert all(process.returncode is not None for process in pinned)
