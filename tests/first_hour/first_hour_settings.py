"""Settings and the command line."""

from pathlib import Path

from book import Chapter, terminal

CHAPTER = Chapter("Settings")


@CHAPTER.mistake("A key that does not exist")
def _():
    Path("headrace.toml").write_text("[limits]\nmax_mesage_bytes = 1000\n")
    return terminal("headrace serve net.hr --config headrace.toml")


@CHAPTER.mistake("A value of the wrong kind")
def _():
    Path("headrace.toml").write_text('[listen]\ngrpc_port = "9000"\n')
    return terminal("headrace serve net.hr --config headrace.toml")


@CHAPTER.mistake("A number out of its range")
def _():
    Path("headrace.toml").write_text("[limits]\nmax_connections = -5\n")
    return terminal("headrace serve net.hr --config headrace.toml")


@CHAPTER.mistake("A file that is no TOML")
def _():
    Path("headrace.toml").write_text("listen: {grpc_port: 9000}\n")
    return terminal("headrace serve net.hr --config headrace.toml")


@CHAPTER.mistake("An instruction set that does not exist")
def _():
    return terminal("HEADRACE_CPU_TIER=avx9 headrace run net.hr in.npz")


@CHAPTER.mistake("A number of threads that is none")
def _():
    return terminal("HEADRACE_THREADS=two headrace run net.hr in.npz")


@CHAPTER.mistake("A command with a slip")
def _():
    return terminal("headrace srve net.hr")
