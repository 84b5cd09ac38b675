"""The server under test, as a process of its own, and what it takes of the machine."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")


class ServerProcess:
    """`headrace serve` on free ports. A context manager: left by killing what is left."""

    def __init__(self, repository, *flags, command=None, cache=None):
        """`cache`: the folder where the server keeps what it proved, in place of the host's."""
        command = command or [sys.executable, "-m", "headrace", "serve"]
        ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics")]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when the server is
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, str(repository), *ports, "--json", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | ({"HEADRACE_CACHE_DIR": str(cache)} if cache else {}),
        )
        told = self._told()
        self.ready_s = time.perf_counter() - began
        self.grpc, self.http, self.metrics_port = told["grpc"], told["http"], told["metrics"]
        self.pid = self.process.pid

    def _told(self):
        """What it prints when it is ready: one JSON document over some lines."""
        text = ""
        while line := self.process.stdout.readline():
            text += line
            if line.startswith("}"):
                return json.loads(text)
        status = self.process.wait()
        self._show_log()
        raise RuntimeError(f"the server ended with status {status}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self._show_log()

    def _show_log(self):
        """What the server wrote, without its log of slow and failed requests: a run makes many of them."""
        self._log.seek(0)
        sys.stderr.writelines(line for line in self._log if not line.startswith('{"time":'))
        self._log.close()

    def children(self):
        """Process ids of its workers."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        for task in os.listdir(f"/proc/{self.pid}/task"):
            if int(task) != self.pid:
                text += Path(f"/proc/{self.pid}/task/{task}/children").read_text()
        return [int(pid) for pid in text.split()]

    def workers(self):
        """Those of them that have a model: its file is mapped."""
        found = []
        for pid in self.children():
            try:
                maps = Path(f"/proc/{pid}/maps").read_text()
            except OSError:
                continue
            if "/model.hr" in maps:
                found.append(pid)
        return found

    def sample(self):
        """Resident MiB, descriptors and threads of the server and its workers together."""
        return self._sum(self.pid, *self.children())

    def settled(self):
        """Resident MiB when what ended has been given back, without the process that checks models: that is idle, has none, and
        goes in a while."""
        time.sleep(1)
        return round(self._sum(self.pid, *self.workers())[0], 1)

    @staticmethod
    def _sum(*pids):
        rss = fds = threads = 0
        for pid in pids:
            try:
                rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
                fds += len(os.listdir(f"/proc/{pid}/fd"))
                threads += len(os.listdir(f"/proc/{pid}/task"))
            except OSError:
                continue  # a worker that has just ended
        return rss / 2**20, fds, threads

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            text = page.read().decode()
        total = 0.0
        for found in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.M):
            if all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total


class Samples:
    """Takes `server.sample()` every `every` seconds in the background, and at the end, however late the thread may be."""

    def __init__(self, server, every):
        self._server, self._every = server, every
        self.rows = []  # seconds, MiB, descriptors, threads
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._take()

    def _work(self):
        while not self._stop.wait(self._every):
            if not self._take():
                return

    def _take(self):
        """False: the server is gone."""
        try:
            self.rows.append((time.monotonic() - self._began, *self._server.sample()))
        except OSError:
            return False
        return True

    def summary(self, skip=0.2):
        """Growth after the first `skip` of the time: MiB an hour by least squares, and the ranges of the rest."""
        rows = np.array(self.rows[int(len(self.rows) * skip) :])
        if len(rows) < 2:
            return {}
        slope = float(np.polyfit(rows[:, 0], rows[:, 1], 1)[0] * 3600)
        ranges = {
            name: [int(rows[:, i].min()), int(rows[:, i].max())] for i, name in ((2, "descriptors"), (3, "threads"))
        }
        return {
            "rss_mib": [round(float(rows[:, 1].min()), 1), round(float(rows[:, 1].max()), 1)],
            "rss_slope_mib_h": round(slope, 2),
            **ranges,
        }
