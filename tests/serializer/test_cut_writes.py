"""Disk full, and the end of the process at any moment of a save: the old package or the new one, whole, and nothing beside it
after the next save."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1] / "serve"
CHILD = """
import json, os, random, resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from serve_packages import package
from headrace.serializer import archive

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, told = Path({path!r}), {{"full": [], "killed": [], "left": []}}

def which():
    (array,) = archive.open_program(path).program.main.constants.values()
    return float(array.reshape(-1)[0])

package(path, 1)
size = path.stat().st_size
for k in range(40):  # a disk that is full after so many bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * k // 40, resource.RLIM_INFINITY))
    try:
        package(path, 2)
        told["full"].append("saved")
    except OSError:
        told["full"].append(which())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told["left"].append(len(list(path.parent.iterdir())) - 1)
numbers = random.Random(3)
for k in range(40):  # the process ends at some moment of its saves
    child = os.fork()
    if not child:
        for value in range(2, 10**6):
            package(path, value)
    time.sleep(numbers.uniform(0.001, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told["killed"].append(which() >= 1)
package(path, 7)
told["left"].append(len(list(path.parent.iterdir())) - 1)
told["last"] = which()
print(json.dumps(told), flush=True)
os._exit(0)
"""


def test_every_interruption_leaves_a_whole_package(tmp_path):
    path = os.pathsep.join(place for place in sys.path if place)
    (tmp_path / "models").mkdir()
    code = CHILD.format(here=str(HERE), path=str(tmp_path / "models/net.hr"))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["full"] == [1.0] * 40  # the old one, every time
    assert told["killed"] == [True] * 40
    assert told["left"] == [0] * 41 and told["last"] == 7.0
