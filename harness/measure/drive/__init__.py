"""The load generator: a plan offered to a server, every byte stamped, a row for every request.

Who calls whom, from a `Job` to the bytes and back; the arrows between processes are files and a pipe.

| where | module | what it holds |
|---|---|---|
| parent | `driver` | `drive(job, watcher, endpoint, ..)`: starts workers, says when, watches, ends |
| parent | `feed` -> `shard` | requests written ahead of the sends (`dialect` makes bodies); one worker's share on disk |
| parent | `admission` | asks the job's gate, where it has one, before a request may be sent |
| parent | `processes` | worker processes: started, told, watched, ended |
| worker | `worker` -> `loop` | the process; send what is due, receive, stamp, append (`scheduling`: its time on the machine) |
| worker | `exchanges` -> `connections` -> `wire` | requests in flight and their ends; ways to the server and time limits; sockets and TLS |
| worker | `reader`, `reader.c` | streams read in mid-flow, in Python or compiled by `cc` |
| worker | `sdk`, `sdk_call` | in place of the loop: the same share through the vendors' clients |
| between | `spool` | ended exchanges, raw, on their way from worker to parent |
| parent | `collect` -> `rows` | spools read; a raw exchange into its `RequestRecord` (`http1`, `sse`, `dialect` parse it) |
| both | `turns` | sessions: a later turn made of planned prompt and real reply |
| beside | `golden` | a server in C that knows the truth, for calibration and tests |
"""
