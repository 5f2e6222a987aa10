"""Runs in a guest and publishes as no honest program would, on the plugin bus at 127.0.0.1:498.

usage: publish.py flood COUNT NAMESPACE BYTES   that many requests on as many connections, up to 256 at once
       publish.py one                           one body from standard input, as it stands

`flood` ends when each request has its answer, and prints as JSON how often each came: an error's code, or the status. A
connection that is refused or broken counts as `broken`. `one` prints status and body.
"""

import collections
import http.client
import json
import sys
import threading

LIMIT = 90
AT_ONCE = 256


def publish(body):
    connection = http.client.HTTPConnection("127.0.0.1", 498, timeout=LIMIT)
    try:
        connection.request("POST", "/v1/publish", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def outcome(body):
    try:
        status, answer = publish(body)
    except (OSError, http.client.HTTPException):
        return "broken"
    if status < 400:
        return str(status)
    return json.loads(answer)["error"]["code"]


def flood(count, namespace, length):
    message = {"namespace": namespace, "type": "request", "payload": {"operation": "sign", "data": ""}}
    message["payload"]["data"] = "A" * max(0, length - len(json.dumps(message)))
    body = json.dumps(message).encode()
    left = iter(range(count))
    seen, lock = collections.Counter(), threading.Lock()

    def work():
        while True:
            with lock:
                if next(left, None) is None:
                    return
            one = outcome(body)
            with lock:
                seen[one] += 1

    threads = [threading.Thread(target=work) for _ in range(min(count, AT_ONCE))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(seen))


if sys.argv[1] == "flood":
    flood(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
else:
    status, body = publish(sys.stdin.buffer.read())
    print(status)
    print(body)
