"""What the fuzzer has to be told of the server under test, and how it tidies up behind its own creates.

Loaded by schemathesis (SCHEMATHESIS_HOOKS). The document says what any server accepts; which images and which backend
this one has, and that the host of a test is small, only its state says.
"""

from collections import deque
from io import BytesIO
from re import fullmatch
from urllib.parse import quote
from urllib.request import Request, urlopen

import json
import os
import tarfile

import schemathesis

SERVER = os.environ["SHED_SERVER"]

# Machines of the fuzzer that may exist at a time: each takes memory of the host.
KEPT = 2

created = deque()

# A namespace that has a listener, so that whoever else wants to listen is refused at once.
TAKEN = "taken"

# The stream of that listener, for as long as this runs.
held = []


def fetch(method, path):
    with urlopen(Request(SERVER + path, method=method), timeout=300) as reply:
        body = reply.read()
        return json.loads(body) if body else None


def shrink(body):
    """Replaces large sizes by small ones, where they are allowed: a refused request stays as it is."""
    if not isinstance(body, dict):
        return
    for key, small, largest in (("cpus", 2, 32), ("memory_mb", 512, 262144)):
        size = body.get(key)
        if type(size) is int and small < size <= largest:
            body[key] = small


def separate(body):
    """Leaves out the repository beside a directory, which each may be there but not both: the document says it in words."""
    if isinstance(body, dict) and body.get("repo") and body.get("local_dir"):
        del body["repo"]


@schemathesis.serializer("application/x-tar")
def archive(ctx, value):
    """Sends bytes as they are, or as the file of an archive: no schema says what an archive is."""
    content = value if isinstance(value, bytes) else str(getattr(value, "data", value)).encode(errors="replace")
    if len(content) % 2:
        return content
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("fuzzed")
        entry.size = len(content)
        tar.addfile(entry, BytesIO(content))
    return packed.getvalue()


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Narrows a create to what this server and its host have."""
    fields = raw_schema["components"]["schemas"]["CreateShedRequest"]["properties"]
    images = [image["name"] for image in fetch("GET", "/api/images")["images"] if image["cached"]]
    fields["image"] = {"enum": [None, "", *images]}
    fields["backend"] = {"enum": [None, "", "detect", fetch("GET", "/api/info")["backend"]]}
    held.append(urlopen(f"{SERVER}/api/plugins/listeners/{TAKEN}/messages"))
    # This runs beside the server, in the directory of the test.
    os.makedirs("mounted", exist_ok=True)
    fields["local_dir"] = {"enum": [None, "", os.path.abspath("mounted")]}


def end_streams(case):
    """Keeps replies from going on for ever (events of a shed that is there, messages to a listener), and a console from
    being asked for a unit, which no schema can forbid."""
    if case.operation.label.endswith("/events"):
        if (case.path_parameters or {}).get("name") in [shed["name"] for shed in fetch("GET", "/api/sheds")["sheds"]]:
            case.path_parameters["name"] = "none-of-these"
    elif case.operation.label.endswith("/messages"):
        namespace = (case.path_parameters or {}).get("namespace")
        if isinstance(namespace, str) and fullmatch(r"(?!system:)[!-~]{1,128}", namespace):
            case.path_parameters["namespace"] = TAKEN
    elif case.operation.label.endswith("/logs") and isinstance(case.query, dict):
        if case.query.get("follow") in (True, "true"):
            case.query["follow"] = "false"
        if case.query.get("source") == "console":
            case.query.pop("unit", None)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keeps the fuzzer's machines few and small: those it asks for may be as large as any. Sends files to a shed that
    is there, where the name is one at all: a random one is not."""
    end_streams(case)
    name = (case.path_parameters or {}).get("name")
    if case.operation.label.endswith("/files") and isinstance(name, str) and fullmatch(r"[a-z][a-z0-9]{0,61}", name):
        case.path_parameters["name"] = "running"
    if case.operation.label == "POST /api/sheds":
        shrink(case.body)
        separate(case.body)
        while len(created) >= KEPT:
            name = created.popleft()
            try:
                fetch("DELETE", f"/api/sheds/{quote(name)}")
            except OSError:
                # The fuzzer has deleted it itself.
                pass


@schemathesis.hook
def after_call(context, case, response):
    if case.operation.label == "POST /api/sheds" and response.status_code == 201:
        created.append(response.json()["name"])
