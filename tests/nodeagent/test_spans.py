"""What a worker reports of its time."""

from __future__ import annotations

from atoll.nodeagent.spans import SHORT_S, SpanRecorder

JOB = b"job_____"


def test_short_tasks_in_a_row_are_one_span_with_a_count() -> None:
    recorder = SpanRecorder(b"worker__")
    for number in range(5):
        recorder.begin(JOB, "f", number * 0.001)
        recorder.end(number * 0.001 + 0.0005, failed=False)
    (span,) = recorder.take(1.0, 1000.0)
    assert (span.name, span.count, span.state) == ("f", 5, "finished")
    assert (span.start, round(span.duration_s, 6)) == (1000.0, 0.0045)
    assert recorder.take(2.0, 1000.0) == []


def test_long_failed_other_and_distant_tasks_are_spans_of_their_own() -> None:
    recorder = SpanRecorder(b"worker__")
    ends = [("f", 0.0, 0.001, False), ("f", 0.002, 0.003, True), ("g", 0.004, 0.005, False)]
    ends += [("g", 0.006, 0.006 + 2 * SHORT_S, False), ("g", 1.0, 1.001, False)]
    for name, start, end, failed in ends:
        recorder.begin(JOB, name, start)
        recorder.end(end, failed=failed)
    spans = recorder.take(2.0, 0.0)
    assert [(span.name, span.count, span.state) for span in spans] == [
        ("f", 1, "finished"),
        ("f", 1, "failed"),
        ("g", 1, "finished"),
        ("g", 1, "finished"),
        ("g", 1, "finished"),
    ]


def test_what_runs_is_reported_under_one_key_until_it_ends() -> None:
    recorder = SpanRecorder(b"worker__")
    recorder.begin(JOB, "long", 10.0)
    first = recorder.take(10.5, 0.0)[0]
    recorder.end(11.0, failed=False)
    last = recorder.take(12.0, 0.0)[0]
    assert (first.state, first.duration_s) == ("running", 0.5)
    assert (last.state, last.duration_s) == ("finished", 1.0)
    assert first.key == last.key


def test_r19_a_clock_that_is_set_moves_a_span_and_does_not_stretch_it() -> None:
    recorder = SpanRecorder(b"worker__")
    recorder.begin(JOB, "long", 10.0)
    before = recorder.take(11.0, 5000.0)[0]
    after = recorder.take(12.0, 1000.0)[0]
    assert (before.duration_s, after.duration_s) == (1.0, 2.0)
    assert after.start - before.start == -4000.0


def test_a_peak_is_laid_to_the_charge_of_the_only_code_that_ran() -> None:
    recorder = SpanRecorder(b"worker__")
    for number in range(3):
        recorder.begin(JOB, "f", number * 0.001, b"", b"code f")
        recorder.end(number * 0.001 + 0.0005, failed=False)
    (span,) = recorder.take(1.0, 0.0, 500)
    assert (span.code, span.peak_bytes) == (b"code f", 500)
    recorder.begin(JOB, "f", 2.0, b"", b"code f")
    recorder.end(2.1, failed=False)
    recorder.begin(JOB, "g", 2.2, b"", b"code g")
    assert [span.peak_bytes for span in recorder.take(2.5, 0.0, 700)] == [0, 0], "nobody knows whose it was"


def test_the_peak_of_what_runs_for_long_is_the_highest_of_all_reports() -> None:
    recorder = SpanRecorder(b"worker__")
    recorder.begin(JOB, "long", 0.0, b"", b"code")
    assert [span.peak_bytes for span in recorder.take(1.0, 0.0, 300)] == [300]
    assert [span.peak_bytes for span in recorder.take(2.0, 0.0, 900)] == [900]
    assert [span.peak_bytes for span in recorder.take(3.0, 0.0, 200)] == [900]
    recorder.end(3.5, failed=False)
    (span,) = recorder.take(4.0, 0.0, 100)
    assert (span.state, span.peak_bytes) == ("finished", 900)
    recorder.begin(JOB, "long", 5.0, b"", b"code")
    assert [span.peak_bytes for span in recorder.take(6.0, 0.0, 50)] == [50], "another run begins anew"
