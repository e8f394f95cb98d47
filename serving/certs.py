"""A self-signed certificate to try TLS with; in production an authority's takes its place."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from common.atomic import write_atomic
from serving.config import ServingError

CERTIFICATE, KEY = "certs/server.pem", "certs/server.key"  # as config.properties names them
BITS = 3072  # RSA: TorchServe 0.12.0 speaks TLS 1.2 with ECDHE_RSA alone
DAYS = 365
NAMES = [
    x509.DNSName("localhost"),
    *(x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")),
]


def write_certificate(folder: Path) -> None:
    """Writes certs/server.pem and, readable by its owner alone, certs/server.key; ServingError if either is there."""
    certificate, key = folder / CERTIFICATE, folder / KEY
    for path in (certificate, key):
        if path.exists():
            raise ServingError(f"{path}: is there already; remove certs/ to have a new certificate made")
    certificate.parent.mkdir(mode=0o700, exist_ok=True)
    private = rsa.generate_private_key(65537, BITS)
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomic(key, private.private_bytes(*pkcs8), 0o600)
    write_atomic(certificate, _signed(private).public_bytes(serialization.Encoding.PEM))


def _signed(private: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "digits, for trial")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(NAMES), critical=False)
        .add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )  # curl's --cacert wants an authority
        .sign(private, hashes.SHA256())
    )
