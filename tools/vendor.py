"""Fetch the scripts that the book serves itself, and check that they are what upstream published.

    python tools/vendor.py            fetch everything from npm; refuse whatever differs from the manifest
    python tools/vendor.py --check    compare the files with the manifest, without any network
    python tools/vendor.py --accept   fetch, and write the hashes of what came into the manifest

The manifest, `_ext/vendored.json`, names for each file its npm package, version and place in the package,
and its SHA-256. To move to another version, change the version there and run with --accept. A file without
a package is a licence text that its package on npm leaves out; it is only checked.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "_ext" / "vendored.json"
REGISTRY = "https://registry.npmjs.org"


def read_manifest() -> list[dict[str, str]]:
    """Return the manifest's entries: path, sha256 and, but for some licences, package, version, member."""
    return json.loads(MANIFEST.read_text("utf8"))


def digest(content: bytes) -> str:
    """SHA-256, as the manifest writes it."""
    return hashlib.sha256(content).hexdigest()


def differences(entries: list[dict[str, str]]) -> list[str]:
    """Name every file that is missing or is not what the manifest says."""
    found = []
    for entry in entries:
        path = ROOT / entry["path"]
        if not path.is_file():
            found.append(f"{entry['path']} is missing")
        elif digest(path.read_bytes()) != entry["sha256"]:
            found.append(f"{entry['path']} is not the file that the manifest names")
    return found


@lru_cache
def package(name: str, version: str) -> dict[str, bytes]:
    """Download one version of an npm package; return its files by their place below `package/`."""
    address = f"{REGISTRY}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    with urllib.request.urlopen(address, timeout=120) as reply:
        archive = io.BytesIO(reply.read())
    with tarfile.open(fileobj=archive) as tar:
        members = [member for member in tar if member.isfile()]
        return {m.name.partition("/")[2]: tar.extractfile(m).read() for m in members}


def fetch(entries: list[dict[str, str]], accept: bool) -> list[str]:
    """Write every file that comes from npm; return those refused because their hash is another."""
    refused = []
    for entry in entries:
        if "package" not in entry:
            continue
        content = package(entry["package"], entry["version"])[entry["member"]]
        if accept:
            entry["sha256"] = digest(content)
        if digest(content) != entry["sha256"]:
            refused.append(f"{entry['package']} {entry['version']}: {entry['member']} has another hash")
            continue
        path = ROOT / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if accept:
        MANIFEST.write_text(json.dumps(entries, indent=1) + "\n", "utf8")
    return refused


def main() -> int:
    """Do what the command line asks; return the exit code."""
    parser = argparse.ArgumentParser(description="Fetch or check the scripts that the book serves itself.")
    parser.add_argument("--check", action="store_true", help="compare with the manifest, offline")
    parser.add_argument("--accept", action="store_true", help="write the hashes of what was fetched")
    arguments = parser.parse_args()
    entries = read_manifest()
    refused = [] if arguments.check else fetch(entries, arguments.accept)
    wrong = refused + differences(entries)
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"{len(entries)} files are as {MANIFEST.relative_to(ROOT)} says")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
