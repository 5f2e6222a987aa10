"""Stands for the server that an IDE puts on a host: keeps state, and tells its port in its log. Runs in the guest."""

import http.server
import os
import threading

STATE = {"asked": 0}
LOCK = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with LOCK:
            STATE["asked"] += 1
            body = f"{os.getpid()} {STATE['asked']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


SERVER = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"Server bound to 127.0.0.1:{SERVER.server_port}", flush=True)
print(f"Extension host agent listening on {SERVER.server_port}", flush=True)
SERVER.serve_forever()
