"""What the command line does, as functions: pack, inspect, verify, run, export, bench."""
