"""A published throughput table beside what this machine measures: which rows can run here, the runs, the comparison.

`config/published.py` reads the file, obstacles.py says what keeps a row from running here, rows.py runs the rest as any experiment,
compare.py puts published and measured side by side with every difference that is known, `report/published.py` prints that.
"""
