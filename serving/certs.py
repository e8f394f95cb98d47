"""A self-signed certificate to try TLS with; in production an authority's takes its place."""

import shutil
import subprocess
from pathlib import Path

from serving.config import ServingError

CERTIFICATE, KEY = "certs/server.pem", "certs/server.key"  # as config.properties names them
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"


def write_certificate(folder: Path) -> None:
    """Write certs/server.pem and, readable by its owner alone, certs/server.key, by openssl.

    ServingError if certs/ is there already. RSA: TorchServe 0.12.0 speaks TLS 1.2 with ECDHE_RSA alone.
    """
    certs = folder / Path(CERTIFICATE).parent
    if certs.exists():
        raise ServingError(f"{certs}: is there already; remove certs/ to have a new certificate made")
    if shutil.which("openssl") is None:
        raise ServingError("openssl is not installed; install it (Debian: openssl), or bring a certificate of your own")
    certs.mkdir(mode=0o700)
    words = f"openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj /CN=digits -addext {NAMES}".split()
    words += ["-keyout", str(folder / KEY), "-out", str(folder / CERTIFICATE)]
    run = subprocess.run(words, capture_output=True, text=True)
    if run.returncode:
        raise ServingError(f"openssl failed: {run.stderr.strip()}")
