#!/usr/bin/env python3
"""Run the Dockerfile's own steps without a container engine: each stage in a clean Debian tree, by debootstrap and chroot.

    sudo python3 deploy/check_dockerfile.py --work FOLDER [--base TREE] [--models FOLDER]

FROM starts from a fresh minimal tree of the named Debian release (made once by debootstrap, or given as --base), RUN runs
in it, COPY, ENV and USER do what they say. Afterwards ENTRYPOINT and CMD are started as the image's user, HEALTHCHECK is
asked until it passes, the server is stopped by SIGTERM, and the size of the last stage is printed. Needs root.

The host's pip configuration, certificates and name resolution are lent to the build stages and removed again.
"""

import argparse
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def instructions(text):
    """(word, rest) for each instruction, continuation lines joined, comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


class Stage:
    def __init__(self, tree):
        self.tree, self.env, self.user, self.entry, self.command, self.health = (
            tree,
            {"PATH": BASE_PATH},
            None,
            [],
            [],
            [],
        )

    def chroot(self, command, user=None, **keywords):
        arguments = ["chroot", *([f"--userspec={user}"] if user else []), str(self.tree), *command]
        return subprocess.Popen(
            arguments, env={"HOME": "/root", "LANG": "C.UTF-8", **self.env, **self.lent()}, **keywords
        )

    def lent(self):
        """Settings of the host's package clients, for build steps only."""
        return {
            key: value
            for key, value in os.environ.items()
            if key.lower() in ("http_proxy", "https_proxy", "no_proxy") or key.startswith("PIP_")
        }

    def inside(self, path):
        return self.tree / str(path).lstrip("/")


LENT = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/ssl/certs/ca-certificates.crt",
    *glob.glob("/etc/apt/apt.conf.d/99*"),
]


def lend(stage):
    """Copy the host's name resolution, certificates and client settings in; answer a function that takes them out."""
    new = []
    for name in LENT:
        source, target = Path(name), stage.inside(name)
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, symlinks=False) if source.is_dir() else shutil.copy(source, target)
            new.append(target)
    return lambda: [shutil.rmtree(path) if path.is_dir() else path.unlink() for path in new]


def base_tree(options, image):
    release = re.fullmatch(r"debian:(\w+)(-slim)?", image)
    if not release:
        sys.exit(f"this script knows Debian bases only, not {image}")
    tree = Path(options.base or Path(options.work, f"base-{release[1]}"))
    if not tree.exists():
        subprocess.run(["debootstrap", "--variant=minbase", release[1], str(tree)], check=True)
    if release[2]:  # what the -slim images leave out
        for name in (
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
            "usr/share/info",
            "var/cache/apt",
            "var/lib/apt/lists",
        ):
            shutil.rmtree(tree / name, ignore_errors=True)
            (tree / name).mkdir(parents=True, exist_ok=True)
    return tree


def copy(sources, target, stage, origin):
    for source in sources:
        where = origin / source.lstrip("/")
        into = stage.inside(target)
        into.mkdir(parents=True, exist_ok=True)
        if origin == ROOT:  # the build context: what git knows, so that nothing local slips in
            listed = subprocess.run(["git", "ls-files", "-z", "--", source], cwd=ROOT, check=True, capture_output=True)
            pack = ["tar", "-cf", "-", "--null", "-T", "-"]
            packed = subprocess.run(pack, cwd=ROOT, check=True, input=listed.stdout, capture_output=True)
            subprocess.run(["tar", "-xf", "-"], cwd=into, check=True, input=packed.stdout)
        else:
            subprocess.run(["cp", "-a", f"{where}/.", str(into)], check=True)


def build(options):
    stages, stage = {}, None
    for word, rest in instructions((ROOT / "Dockerfile").read_text()):
        print(f"--> {word} {rest[:110]}", flush=True)
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            tree = Path(options.work, f"stage-{len(stages)}")
            subprocess.run(["rm", "-rf", str(tree)], check=True)
            subprocess.run(["cp", "-a", str(base_tree(options, image)), str(tree)], check=True)
            stage = stages[name or str(len(stages))] = Stage(tree)
        elif word == "RUN":
            take_back = lend(stage)
            status = stage.chroot(["/bin/sh", "-c", rest]).wait()
            take_back()
            if status:
                sys.exit(f"RUN ended with status {status}: {rest}")
        elif word == "COPY":
            words = shlex.split(rest)
            origin = stages[words.pop(0).partition("=")[2]].tree if words[0].startswith("--from=") else ROOT
            copy(words[:-1], words[-1], stage, origin)
        elif word == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                stage.env[key] = value.replace("$PATH", stage.env["PATH"])
        elif word == "USER":
            stage.user = rest
        elif word in ("ENTRYPOINT", "CMD"):
            setattr(stage, "entry" if word == "ENTRYPOINT" else "command", json.loads(rest))
        elif word == "HEALTHCHECK":
            stage.health = json.loads(rest[rest.index("CMD ") + 4 :])
    return stage


def serve(stage, models):
    """Start the image's command as its user, wait for the health check, stop it."""
    stage.lent = lambda: {}
    if models:
        shutil.copytree(models, stage.inside("/mnt/models"), dirs_exist_ok=True)
    for device in ("null", "urandom", "random", "zero"):
        if not stage.inside(f"/dev/{device}").exists():
            subprocess.run(["cp", "-a", f"/dev/{device}", str(stage.inside("/dev"))], check=True)
    began = time.monotonic()
    server = stage.chroot([*stage.entry, *stage.command], user=stage.user)
    try:
        while stage.chroot(stage.health, user=stage.user, stderr=subprocess.DEVNULL).wait():
            if server.poll() is not None or time.monotonic() - began > 60:
                sys.exit(f"the server did not become healthy (status {server.poll()})")
            time.sleep(0.2)
        print(f"healthy after {time.monotonic() - began:.1f} s")
    finally:
        server.terminate()
        status = server.wait(40)
    print(f"stopped by SIGTERM with status {status}")
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for the trees (about 2 GB)")
    parser.add_argument("--base", help="a debootstrap tree to start from")
    parser.add_argument("--models", help="a model repository to put at /mnt/models")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("chroot needs root")
    Path(options.work).mkdir(parents=True, exist_ok=True)
    last = build(options)
    size = int(
        subprocess.run(
            ["du", "-sx", "--block-size=1", str(last.tree)], check=True, capture_output=True, text=True
        ).stdout.split()[0]
    )
    print(f"last stage: {size / 1e6:.0f} MB on disk")
    return serve(last, options.models)


if __name__ == "__main__":
    sys.exit(main())
