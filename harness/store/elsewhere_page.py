"""The part of results/README.md about object storage: layout, what is guaranteed, views in SQL, and a terabyte on paper."""

from __future__ import annotations

ELSEWHERE = """
## In object storage

`harness run CONFIG --results s3://bucket/nightly` (gs://, abfs://, any fsspec URL) writes each run on this machine first, in
`~/.cache/vllm-cost-harness/results/` (XDG_CACHE_HOME), and puts it to the same layout when it has ended:

    s3://bucket/nightly/<experiment>/<run_id>/*.parquet ..         files first, looked at again there (size; MD5 where ETags are MD5s)
    s3://bucket/nightly/<experiment>/<run_id>/manifest.json        last: a run without it is not there
    s3://bucket/nightly/<experiment>/campaigns/<campaign_id>.json  when a campaign begins, and at its end
    s3://bucket/nightly/<experiment>/campaigns/<campaign_id>.lock  while somebody writes it
    s3://bucket/nightly/<experiment>/derived/<campaign_id>/        its report
    s3://bucket/nightly/history/month=YYYY-MM/*.parquet            the table `runs`

Before anything is sent an object is written there and deleted: a bucket that is missing or read-only, and credentials that are, end
the command then. What is refused later stays here, is said, and the campaign goes on; `harness upload DIR URL` puts it, and may be
repeated at any time. A fleet's runs go there as they come back from their boxes, one at a time, from the machine that runs the campaign.

What is guaranteed of two campaigns under one prefix: each has an id of its own (of those that begin in one second the later gets
`-2`), writes only where it holds the lock, and never replaces another campaign's run. That rests on conditional puts (S3, Google, Azure;
`--results` says where the store has none: then but for the same instant). A machine that died leaves its lock: the same folder goes on
with it; elsewhere `--resume` names the object to delete. Objects that are put while a reader lists are seen now or the next time.

`report`, `compare`, `cost`, `analyse` and `history` take URLs. Runs (without logs) are fetched into that same folder, each file once: its
ETag is kept beside it in `.etags`, so what this machine uploaded is not fetched at all; beyond HARNESS_CACHE_GIB (50) the oldest of what the
store has goes from here. Of an experiment only the campaign that was asked
for is. `history sql .. FROM requests` reads ranges: the columns it names, of the row groups it needs.

### Views

DuckDB (its `httpfs` extension, or a registered s3fs):

```sql duckdb
CREATE VIEW runs AS SELECT * FROM read_parquet('s3://BUCKET/nightly/history/**/*.parquet', union_by_name = true, hive_partitioning = true)
QUALIFY row_number() OVER (PARTITION BY experiment, run_id ORDER BY indexed_utc DESC) = 1;
CREATE VIEW requests AS SELECT split_part(filename, '/', -3) AS experiment, split_part(filename, '/', -2) AS run_id, * EXCLUDE (filename)
FROM read_parquet('s3://BUCKET/nightly/*/*/requests.parquet', union_by_name = true, filename = true, hive_partitioning = false);
```

Spark SQL:

```sql
CREATE TEMPORARY VIEW run_rows USING parquet OPTIONS (path 's3a://BUCKET/nightly/history', mergeSchema 'true');
CREATE TEMPORARY VIEW runs AS SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY experiment, run_id ORDER BY indexed_utc DESC)
AS newest FROM run_rows) WHERE newest = 1;
CREATE TEMPORARY VIEW requests AS SELECT element_at(split(input_file_name(), '/'), -3) AS experiment,
element_at(split(input_file_name(), '/'), -2) AS run_id, * FROM parquet.`s3a://BUCKET/nightly/*/*/requests.parquet`;
```

Trino (Hive connector; name the columns that are needed, they are matched by name):

```sql
CREATE TABLE hive.nightly.run_rows (experiment varchar, run_id varchar, campaign_id varchar, created_utc timestamp(6), indexed_utc timestamp(6),
target varchar, workload varchar, load varchar, verdict varchar, output_tps double, ttft_s_p99 double, month varchar)
WITH (external_location = 's3://BUCKET/nightly/history', format = 'PARQUET', partitioned_by = ARRAY['month']);
CALL hive.system.sync_partition_metadata('nightly', 'run_rows', 'FULL');
CREATE VIEW hive.nightly.runs AS SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY experiment, run_id ORDER BY indexed_utc DESC)
AS newest FROM hive.nightly.run_rows) WHERE newest = 1;
```

The first is run by the tests; the others were never run on a Spark or a Trino.

### A terabyte, on paper

100,000 runs of 10,000 requests at about 1 kB a stored request (256 tokens, 3 bytes a stamp): 1 TB. With f = 8 files a run:

| what | formula | 100,000 runs |
|---|---|---|
| objects | runs x f, and 1 history file a month that is over, at most 64 in the newest | 800,000 and about 100 |
| size | requests x 1 kB; history: runs x 0.86 kB (130 columns, measured) | 1 TB; 86 MB |
| writing | a run: f PUT, 3 LIST, 3 GET or HEAD; a campaign: 9 PUT, 2 LIST more | about 0.8 million PUT, 0.3 million LIST |
| their price | (PUT + LIST) x $0.005/1,000 + (GET + HEAD) x $0.0004/1,000 (S3 Standard, us-east-1, as remembered on 2026-11-26) | about $6, once |
| storage | TB x $23 a month | $23 a month |
| a trend | 1 LIST, and a GET for each history file that is new to this machine | cold about 100 GET, 86 MB; warm 1 LIST: $0.000005 |
| a report of one campaign | LIST of an experiment's folders / 1,000, 1 LIST a run, f - 1 GET a run | 99 runs: about 200 LIST, 700 GET: $0.0013 |
| all requests (`FROM requests`) | LIST objects / 1,000, twice; a few GET of ranges a run | 1,600 LIST: minutes before the first byte |

The first that breaks is listing: `history sql .. FROM requests`, `history prune` and a URL of all results list every object. From some 10,000
runs on give them an experiment's URL, or a prefix a year; the trend does not mind.
"""
