#!/usr/bin/env python3
"""The host's side of the extension `my-tokens`: answers sheds that ask for a token with what a command here prints.

usage: host.py [-h] --shed SHED [--shed SHED ...] SERVER NAME COMMAND [ARGUMENT ...]

It listens on the plugin bus of one server, for the sheds that are named and no others, and knows one token, NAME. A shed
chooses between asking and not asking: no word of it reaches COMMAND. Tokens and what COMMAND prints are in no message of this
program. It connects again when the connection breaks, and waits for its turn when another program listens already; it
ends, with 1, when the server refuses it for good. Python 3.9 or newer, and nothing but its standard library.
"""

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time
import urllib.parse

NAMESPACE = "my-tokens"
PATH = f"/api/plugins/listeners/{NAMESPACE}"

# The server sends a comment every 15 s; when three are missing, the connection is dead.
SILENCE = 45
# Seconds between two attempts to connect: doubled from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 1, 30
# A guest waits 30 s for an answer, so the command has less.
COMMAND_LIMIT = 20
RESPOND_LIMIT = 5
# Commands that run at the same time; who asks beyond that is told to come again.
AT_ONCE = 4
# Longest line of the event stream: a message has at most 1 MiB, and something goes around it.
LONGEST_LINE = 2 << 20
LONGEST_TOKEN = 16 << 10


class Refused(Exception):
    """What a shed is told instead of a token: a code for programs and a sentence for people."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class WillNotDo(Exception):
    """The server refuses this listener, and would do so again."""


def log(text):
    print(f"my-tokens: {text}", file=sys.stderr, flush=True)


def connect(server, limit):
    kind = http.client.HTTPSConnection if server.scheme == "https" else http.client.HTTPConnection
    return kind(server.hostname, server.port, timeout=limit)


def events(stream):
    """Yields (event, data) of a stream of server-sent events, which lines that begin with a colon keep alive."""
    event, data = "message", []
    while True:
        line = stream.readline(LONGEST_LINE + 1)
        if len(line) > LONGEST_LINE:
            raise ValueError("a line of the event stream is too long")
        if not line.endswith(b"\n"):
            return  # The end, perhaps within an event; half an event is none.
        line = line.rstrip(b"\r\n")
        if not line:
            if data:
                yield event, b"\n".join(data)
            event, data = "message", []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"event":
            event = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
        # A comment has an empty field; other fields mean nothing here.


def wanted(payload, name):
    """Checks what a guest asks for. All of it comes from the guest: whatever is not known is refused."""
    if not isinstance(payload, dict) or set(payload) != {"operation", "name"}:
        raise Refused("INVALID_REQUEST", "a request has `operation` and `name`, and nothing else")
    if payload["operation"] != "token":
        raise Refused("UNKNOWN_OPERATION", "the only operation is `token`")
    if payload["name"] != name:
        raise Refused("UNKNOWN_NAME", "there is no token of this name")


def make_token(command):
    """Runs the command and returns the one line that it prints."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run(command, timeout=COMMAND_LIMIT, check=False, **pipes)
    except subprocess.TimeoutExpired:
        raise Refused("COMMAND_FAILED", f"the command took longer than {COMMAND_LIMIT} s") from None
    except OSError as error:
        raise Refused("COMMAND_FAILED", f"the command cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        raise Refused("COMMAND_FAILED", f"the command failed with {done.returncode}; run it by hand to see why")
    token = done.stdout.strip()
    if not 0 < len(token) <= LONGEST_TOKEN or not token.isascii() or any(byte <= 32 for byte in token):
        raise Refused("COMMAND_FAILED", "the command printed something else than one word")
    return token.decode("ascii")


class Host:
    """What the command line says, and how many commands run."""

    def __init__(self, server, sheds, name, command):
        self.server, self.sheds, self.name, self.command = server, sheds, name, command
        self.places = threading.BoundedSemaphore(AT_ONCE)

    def listen(self, connected):
        """Answers until the connection ends, and calls `connected` when it is there."""
        connection = connect(self.server, SILENCE)
        try:
            connection.request("GET", f"{PATH}/messages", headers={"Accept": "text/event-stream"})
            stream = connection.getresponse()
            if stream.status == 409:
                raise ConnectionError("409: another program listens already")
            if 400 <= stream.status < 500:
                raise WillNotDo(f"the server refuses with {stream.status}: {error_text(stream)}")
            if stream.status != 200:
                raise ConnectionError(f"the server answers with {stream.status}: {error_text(stream)}")
            connected()
            for event, data in events(stream):
                if event == "message":
                    self.take(data)
        finally:
            connection.close()

    def take(self, data):
        """Has one message answered, beside those that are being answered."""
        message = json.loads(data)
        # Who asks is the server's word, not the guest's.
        shed, request = message["shed"]["name"], message["id"]
        if message["type"] != "request":
            return  # Events want no answer.
        if not self.places.acquire(blocking=False):
            self.respond(shed, request, failure(Refused("BUSY", "too many ask at the same time; try again")))
            return

        def work():
            try:
                self.respond(shed, request, self.answer(shed, message.get("payload")))
            finally:
                self.places.release()

        threading.Thread(target=work, daemon=True).start()

    def answer(self, shed, payload):
        try:
            if shed not in self.sheds:
                raise Refused("NOT_ALLOWED", "this shed may not ask; name it with --shed on the host")
            wanted(payload, self.name)
            token = make_token(self.command)
        except Refused as refused:
            log(f"{shed}: no: {refused.code}: {refused}")
            return failure(refused)
        log(f"{shed}: a token {self.name}")
        return {"token": token}

    def respond(self, shed, request, payload):
        """Sends an answer. One that does not arrive is not sent again: the guest asks again, or has gone."""
        body = json.dumps({"shed": {"name": shed}, "in_reply_to": request, "payload": payload})
        connection = connect(self.server, RESPOND_LIMIT)
        try:
            connection.request("POST", f"{PATH}/respond", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 204:
                log(f"{shed}: the answer did not go out: {answer.status}: {error_text(answer)}")
        except (OSError, http.client.HTTPException) as error:
            log(f"{shed}: the answer did not go out: {error}")
        finally:
            connection.close()

    def serve(self):
        pause, told = FIRST_PAUSE, None

        def connected():
            nonlocal pause, told
            pause, told = FIRST_PAUSE, None
            log(f"listening on {self.server.geturl()}")

        while True:
            try:
                self.listen(connected)
                reason = "the server ended the connection"
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                reason = f"{error}" or type(error).__name__
            if reason != told:
                log(f"{reason}; trying again")
                told = reason
            # Not all at the same moment, when many wait for one server.
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LAST_PAUSE)


def failure(refused):
    return {"error": {"code": refused.code, "message": str(refused)}}


def error_text(answer):
    """Returns what the server says of a failure, in a form that is safe to print."""
    try:
        error = json.loads(answer.read(64 << 10))["error"]
        return ascii(f"{error['code']}: {error['message']}")
    except (ValueError, KeyError, TypeError):
        return answer.reason


def url_of_server(text):
    """Returns the parts of a URL that names a server and nothing else, or None."""
    try:
        url = urllib.parse.urlsplit(text)
        rest = url.path.strip("/") or url.query or url.fragment or url.username or url.port == 0
    except ValueError:
        return None
    return url if url.scheme in ("http", "https") and url.hostname and not rest else None


def main():
    parser = argparse.ArgumentParser(description="Answers sheds that ask for a token with what a command prints.")
    parser.add_argument("--shed", action="append", required=True, help="a shed that may ask; more than once for more")
    parser.add_argument("server", help="URL of the server, such as http://localhost:8080")
    parser.add_argument("name", help="what sheds call the token")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="prints the token")
    options = parser.parse_args()
    server = url_of_server(options.server)
    if server is None:
        parser.error(f"{options.server} is no URL of a server, such as http://localhost:8080")
    if not options.command:
        parser.error("which command prints the token?")
    try:
        Host(server, set(options.shed), options.name, options.command).serve()
    except WillNotDo as reason:
        log(f"{reason}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
