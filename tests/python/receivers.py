"""Receivers that are not ours: a webhook endpoint that verifies with the standard's own library, a chat, a mail server.

Prints one JSON line with the ports, then one per message taken. Ends when its standard input does.
"""

import email
import email.policy
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SECRET = sys.argv[1]
LOCK = threading.Lock()


def say(kind, **fields):
    with LOCK:
        print(json.dumps({"kind": kind, **fields}), flush=True)


class Http(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/hook":
            try:
                event = Webhook(SECRET).verify(body, dict(self.headers.items()))
            except WebhookVerificationError as error:
                say("refused", error=str(error))
                return self.answer(401)
            say("webhook", type=self.headers["content-type"], id=self.headers["webhook-id"], event=event)
        else:
            say("chat", path=self.path, text=json.loads(body)["text"])
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Mailbox:
    async def handle_DATA(self, _server, _session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say(
            "mail",
            sender=envelope.mail_from,
            to=envelope.rcpt_tos,
            subject=mail["subject"],
            id=mail["message-id"],
            text=mail.get_content(),
        )
        return "250 OK"


http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
threading.Thread(target=http.serve_forever, daemon=True).start()


class AnyPort(Controller):
    """The library connects to itself to see that it listens, which needs the port that it got."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


smtp = AnyPort(Mailbox(), hostname="127.0.0.1", port=0)
smtp.start()
say("ready", http=http.server_port, smtp=smtp.port)
sys.stdin.read()
smtp.stop()
http.shutdown()
