"""Mail servers with TLS, and one without: good ones, and ones that prove the wrong name or are vouched for by nobody known.

Takes a directory for the certificates and the password that is right. Prints one JSON line with the ports and the
authorities' certificates, then one per sign-in that was tried and one per message taken, with the server's name and the
version of TLS. Ends when its standard input does.
"""

import asyncio
import datetime
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DIRECTORY = pathlib.Path(sys.argv[1])
PASSWORD = sys.argv[2].encode()
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


def say(kind, **fields):
    print(json.dumps({"kind": kind, **fields}), flush=True)


def certificate(name, issuer, issuer_key, key, extension):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(extension, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


class Authority:
    def __init__(self, name):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate(
            name, None, self.key, self.key, x509.BasicConstraints(ca=True, path_length=None)
        )
        self.path = DIRECTORY / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(PEM))

    def server(self, name):
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        made = certificate(name, self.certificate.subject, self.key, key, names)
        path = DIRECTORY / f"{self.path.stem}-{name}.pem"
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + made.public_bytes(PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class Mailbox:
    """Tells what one server takes."""

    def __init__(self, name):
        self.name = name

    def sign_in(self, _server, _session, _envelope, _mechanism, login):
        right = (login.login, login.password) == (b"postern", PASSWORD)
        say("sign_in", server=self.name, right=right)
        # What is not handled here, the server answers with 535.
        return AuthResult(success=right, handled=False)

    async def handle_DATA(self, server, session, envelope):
        cipher = server.transport.get_extra_info("cipher")
        say(
            "mail",
            server=self.name,
            tls=cipher and cipher[1],
            signed_in=bool(session.authenticated),
            to=envelope.rcpt_tos,
        )
        return "250 OK"


async def listen(name, starttls=None, implicit=None):
    mailbox = Mailbox(name)

    def speak():
        return SMTP(
            mailbox,
            hostname="localhost",
            authenticator=mailbox.sign_in,
            tls_context=starttls,
            require_starttls=starttls is not None,
            # The library knows only of TLS that began with STARTTLS. The plain one would take a password.
            auth_require_tls=starttls is not None,
        )

    server = await asyncio.get_running_loop().create_server(speak, "127.0.0.1", 0, ssl=implicit)
    return server.sockets[0].getsockname()[1]


async def main():
    known, unknown = Authority("known"), Authority("unknown")
    good, wrong, unvouched = known.server("localhost"), known.server("mail.example.com"), unknown.server("localhost")
    ports = {
        "starttls": await listen("starttls", starttls=good),
        "implicit": await listen("implicit", implicit=good),
        "wrong-name-starttls": await listen("wrong-name-starttls", starttls=wrong),
        "wrong-name-implicit": await listen("wrong-name-implicit", implicit=wrong),
        "unknown-starttls": await listen("unknown-starttls", starttls=unvouched),
        "unknown-implicit": await listen("unknown-implicit", implicit=unvouched),
        "plain": await listen("plain"),
    }
    say("ready", ports=ports, known=str(known.path), unknown=str(unknown.path))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
