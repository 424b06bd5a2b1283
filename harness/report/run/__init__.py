"""The report of measured runs: cells.py gathers repetitions, answer.py is its sentence, sections.py the rest as values;
tables.py, markdown.py and document.py (HTML and CSV, with figures.py) write them."""
