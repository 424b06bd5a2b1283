"""RunSummary values for the cost stage, made by hand."""

from __future__ import annotations

from harness.records import Cell, Load, Reason, RunSummary, Verdict, Window

RUN_ID = "20261124T113000Z_t_fixed_c4_rep0"


def summary(
    *,
    state="VALID",
    usage=((1000, 0, 200, 0),) * 1000,
    kind="vllm",
    created_utc="20261124T113000Z",
    window=True,
    **scalars,
) -> RunSummary:
    """100 s at 10 requests/s of 1,000 + 200 tokens, unless told otherwise."""
    given = {
        "total_tps": 12000.0,
        "input_tps": 10000.0,
        "output_tps": 2000.0,
        "request_rps": 10.0,
        "goodput_rps": 8.0,
        **scalars,
    }
    reasons = (
        ()
        if state == "VALID"
        else (Reason("x", "invalid" if state == "INVALID" else "unknown", "too many failed", "run again"),)
    )
    return RunSummary(
        run_id=RUN_ID, experiment="x", campaign_id="c", created_utc=created_utc, cell=Cell("t", "fixed:1000x200", Load(concurrency=4), 0),
        state="complete", model="m", target_kind=kind, window=Window(0, 100 * 10**9, "", 100.0, 0, 0) if window else None,
        verdict=Verdict(state, reasons), outcomes={"ok": 1000}, scalars=given, distributions={}, tokens=(), timeline=None, notes=(), usage=usage,
    )  # fmt: skip
