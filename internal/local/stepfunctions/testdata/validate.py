"""Checks answers of the local Step Functions API against the service's own API model, which botocore carries.

Reads lines {"operation": ..., "status": ..., "body": ...} on standard input, writes one line for each thing that the model does not
allow, and ends with the number of the answers it has checked.
"""

import json
import sys

import botocore.loaders

MODEL = botocore.loaders.Loader().load_service_model("stepfunctions", "service-2")
SHAPES = MODEL["shapes"]
# Errors of the protocol and of the model's limits, which every operation may give.
COMMON = {"ValidationException", "SerializationException", "UnknownOperationException"}


def check(name, value, where):
    shape = SHAPES[name]
    kind = shape["type"]
    if kind == "structure":
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no structure"
            return
        for member in shape.get("required", []):
            if member not in value:
                yield f"{where}: {member} is missing"
        for member, inner in value.items():
            if member not in shape["members"]:
                yield f"{where}: {member} is unknown"
            else:
                yield from check(shape["members"][member]["shape"], inner, f"{where}.{member}")
    elif kind == "list":
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for i, inner in enumerate(value):
            yield from check(shape["member"]["shape"], inner, f"{where}[{i}]")
    elif kind == "map":
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no map"
            return
        for key, inner in value.items():
            yield from check(shape["key"]["shape"], key, f"{where} key")
            yield from check(shape["value"]["shape"], inner, f"{where}.{key}")
    elif kind == "string":
        if not isinstance(value, str):
            yield f"{where}: {value!r} is no string"
        elif "enum" in shape and value not in shape["enum"]:
            yield f"{where}: {value!r} is none of the allowed values"
        elif not shape.get("min", 0) <= len(value) <= shape.get("max", len(value)):
            yield f"{where}: {len(value)} characters are too few or too many"
    elif kind == "boolean":
        if not isinstance(value, bool):
            yield f"{where}: {value!r} is no boolean"
    elif kind in ("integer", "long", "float", "timestamp"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield f"{where}: {value!r} is no number"
        elif kind in ("integer", "long") and not isinstance(value, int):
            yield f"{where}: {value!r} is no whole number"
        elif not shape.get("min", value) <= value <= shape.get("max", value):
            yield f"{where}: {value!r} is out of range"
        elif kind == "timestamp" and round(value * 1000) / 1000 != value:
            yield f"{where}: {value!r} is finer than milliseconds"
    else:
        yield f"{where}: the model's type {kind} is not known here"


def check_error(operation, status, body):
    name = body.get("__type", "").rpartition("#")[2]
    declared = {e["shape"] for e in MODEL["operations"].get(operation, {}).get("errors", [])}
    if status < 400 or name not in declared | COMMON:
        yield f"{operation}: {name} with status {status} is no error of this operation"
    elif name in SHAPES:
        body = {k: v for k, v in body.items() if k != "__type"}
        yield from check(name, body, f"{operation}: {name}")


def main():
    count = 0
    for line in sys.stdin:
        answer = json.loads(line)
        operation, status, body = answer["operation"], answer["status"], answer["body"]
        count += 1
        if status != 200:
            found = check_error(operation, status, body)
        else:
            found = check(MODEL["operations"][operation]["output"]["shape"], body, operation)
        for problem in found:
            print(problem)
    print(count)


main()
