"""Print the lowest versions that setup.cfg names for some extras: ``python lowest.py EXTRA...``."""

import configparser
import re
import sys
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
named = [config["options"]["install_requires"]]
named += [config["options.extras_require"][extra] for extra in sys.argv[1:]]
lowest: dict[str, tuple[int, ...]] = {}
for line in "".join(named).splitlines():
    if found := re.match(r"([\w.-]+)>=([\d.]+)", line.strip()):
        version = tuple(map(int, found[2].split(".")))
        lowest[found[1]] = max(version, lowest.get(found[1], ()))
for name, version in sorted(lowest.items()):
    print(f"{name}=={'.'.join(map(str, version))}")
