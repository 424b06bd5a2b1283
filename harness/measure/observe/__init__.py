"""What is watched beside a run (boards, the server's counters, this machine), and what `harness doctor` says of a machine."""
