"""Prints a TOML file as JSON, for interpreters whose library has no parser."""

import json
import sys

import tomli

try:
    with open(sys.argv[1], "rb") as file:
        print(json.dumps(tomli.load(file), default=str))
except ValueError as error:
    sys.exit(str(error))
