"""A judge of our own: a server in a thread that speaks both protocols."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server:
    """Answers with one reply after the other, the last one for ever: a text, a number of HTTP's, or a whole body."""

    def __init__(self):
        self.replies, self.asked = ["50"], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, body, self.headers.get("Authorization")))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if callable(reply):
                    reply = reply()
                if isinstance(reply, int):
                    self.send_response(reply)
                    self.send_header("Location", "/elsewhere")
                    self.end_headers()
                    self.wfile.write(b"no such model")
                    return
                message = {"message": {"role": "assistant", "content": reply}}
                shape = message if self.path.startswith("/api") else {"choices": [message]}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(shape).encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()
