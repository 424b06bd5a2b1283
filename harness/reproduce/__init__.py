"""A published throughput table beside what this machine measures: which rows can run here, the runs, the comparison.

table.py reads the file, fits.py says what keeps a row from running here, run.py runs the rest through the main path,
compare.py puts published and measured side by side with every difference that is known, page.py prints that.
"""
