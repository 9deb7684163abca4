"""TLS in front of a plain HTTP server, with a certificate that no system trusts."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class TlsFront:
    """`https://127.0.0.1:port`; `ca_file` is the authority that signed its certificate."""

    port: int
    ca_file: Path

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@contextmanager
def running_tls_front(
    directory: Path, target_port: int, host: str = "127.0.0.1"
) -> Iterator[TlsFront]:
    """Hands every byte on to 127.0.0.1:`target_port`. The certificate is for 127.0.0.1."""
    ca_file, chain = certificates(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with socket.create_server((host, 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, context, target_port))
        thread.start()
        try:
            yield TlsFront(listener.getsockname()[1], ca_file)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, context: ssl.SSLContext, target_port: int) -> None:
    with suppress(OSError):
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=_serve, args=(raw, context, target_port), daemon=True).start()


def _serve(raw: socket.socket, context: ssl.SSLContext, target_port: int) -> None:
    # Two threads may use one SSLSocket at once, for one direction each.
    with (
        suppress(OSError),
        raw,
        context.wrap_socket(raw, server_side=True) as client,
        socket.create_connection(("127.0.0.1", target_port)) as server,
    ):
        up = threading.Thread(target=_pump, args=(client, server), daemon=True)
        up.start()
        _pump(server, client)
        up.join(1)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            # As whoever ends TLS before a WebDAV server has to.
            target.sendall(data.replace(b"\nDestination: https:", b"\nDestination: http:"))
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def certificates(directory: Path) -> tuple[Path, Path]:
    """(the authority's certificate, the server's key and certificate)."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mountd test authority")])

    def built(name: x509.Name, public: ec.EllipticCurvePublicKey, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder(ca_name, name, public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            names = [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    ca_file, chain = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(built(ca_name, ca_key.public_key(), True).public_bytes(pem))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mountd test server")])
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + built(name, key.public_key(), False).public_bytes(pem))
    return ca_file, chain
