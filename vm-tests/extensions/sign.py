"""Runs in a guest: asks the SSH agent at SSH_AUTH_SOCK for signatures, one after the other over one connection.

usage: sign.py COUNT

Prints the milliseconds that each took, as a JSON list. The protocol is that of RFC 9987. The signatures are not checked
here; ssh-keygen does that in other tests. One that is refused ends the program with what it had until then, and with 1.
"""

import json
import os
import socket
import struct
import sys
import time

IDENTITIES, ANSWER, SIGN, SIGNED = 11, 12, 13, 14


def text(value):
    return struct.pack(">I", len(value)) + value


def read(stream, length):
    data = stream.read(length)
    if len(data) != length:
        raise SystemExit("the agent has closed the connection")
    return data


def ask(connection, stream, body):
    connection.sendall(text(body))
    answer = read(stream, struct.unpack(">I", read(stream, 4))[0])
    return answer[0], answer[1:]


def main():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["SSH_AUTH_SOCK"])
    stream = connection.makefile("rb")
    kind, keys = ask(connection, stream, bytes([IDENTITIES]))
    if kind != ANSWER or keys[:4] == bytes(4):
        raise SystemExit("the agent lists no key")
    key = keys[8 : 8 + struct.unpack(">I", keys[4:8])[0]]
    times = []
    for number in range(int(sys.argv[1])):
        data = b"%d %d" % (os.getpid(), number)
        begun = time.perf_counter()
        kind, _ = ask(connection, stream, bytes([SIGN]) + text(key) + text(data) + bytes(4))
        times.append((time.perf_counter() - begun) * 1000)
        if kind != SIGNED:
            print(json.dumps(times))
            raise SystemExit(f"signature {number} was refused")
    print(json.dumps(times))


main()
