"""The server's certificates: when a new one is made and when it is shown. Pure but for the dice.

Each serving certificate has an authority of its own, whose key is thrown away once it has signed:
no key that could sign is ever kept. A successor is made after two thirds of a life; clients get
both authorities, and only when they have had them for a while is the successor shown.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Other machines' clocks may be a little behind.
SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A serving certificate, followed by the authority that signed it, and its key. PEM."""

    chain: bytes
    key: bytes

    @classmethod
    def issue(cls, hosts: Sequence[str], now: datetime.datetime, life: datetime.timedelta) -> Self:
        """Make an authority and a certificate for these DNS names."""
        authority_key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        # A name of its own, or clients could not tell which authority signed what.
        issuer = _name(f"pagoda-metrics-server-ca-{serial:x}"[:64])
        until = now + life
        authority = (
            _builder(issuer, issuer, authority_key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()),
                critical=False,
            )
            .sign(authority_key, hashes.SHA256())
        )
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        certificate = (
            _builder(_name(hosts[0][:64]), issuer, key.public_key(), now, until)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
            .sign(authority_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return cls(_pem(certificate) + _pem(authority), private)

    @classmethod
    def parse(cls, chain: bytes, key: bytes) -> Self:
        """Take over what was stored.

        Raises:
            ValueError: these are not a certificate, its authority, and the certificate's key.
        """
        found = x509.load_pem_x509_certificates(chain)
        private = serialization.load_pem_private_key(key, password=None)
        if len(found) != 2 or found[0].public_key() != private.public_key():
            raise ValueError("certificate, authority and key do not belong together")
        found[0].verify_directly_issued_by(found[1])
        return cls(chain, key)

    @property
    def certificate(self) -> x509.Certificate:
        """The serving certificate."""
        return x509.load_pem_x509_certificates(self.chain)[0]

    @property
    def authority(self) -> bytes:
        """The authority's certificate, PEM."""
        return _pem(x509.load_pem_x509_certificates(self.chain)[1])

    @property
    def issued(self) -> datetime.datetime:
        """When it was made."""
        return self.certificate.not_valid_before_utc + SKEW

    @property
    def expires(self) -> datetime.datetime:
        """When clients begin to refuse it."""
        return self.certificate.not_valid_after_utc

    def serves(self, hosts: Sequence[str]) -> bool:
        """Tell whether it is for exactly these names."""
        names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return set(names.value.get_values_for_type(x509.DNSName)) == set(hosts)


@dataclass(frozen=True)
class Rules:
    """How certificates are made and replaced."""

    hosts: Sequence[str]
    life: datetime.timedelta = datetime.timedelta(days=90)
    settle: datetime.timedelta = datetime.timedelta(minutes=5)
    """How long clients get to learn of a new authority before its certificate is shown."""


@dataclass(frozen=True)
class Certificates:
    """What is shown now, what comes next, and the authority of what was shown before."""

    current: Pair
    next: Pair | None = None
    previous: bytes = b""  # PEM

    @property
    def bundle(self) -> bytes:
        """The authorities that clients are to trust, PEM."""
        return self.current.authority + (self.next.authority if self.next else self.previous)


def advance(
    held: Certificates | None, rules: Rules, now: datetime.datetime, published: bytes
) -> Certificates | None:
    """Say what is to be held from now on.

    Args:
        held: what is held; None: nothing, or nothing of use.
        rules: names and times.
        now: UTC.
        published: the authorities that clients are told to trust at present, PEM.

    Returns:
        What replaces it, or None while it is to stay as it is.
    """
    if held is None or not held.current.serves(rules.hosts):
        return Certificates(Pair.issue(rules.hosts, now, rules.life))
    current, successor = held.current, held.next
    if successor is not None and now < successor.expires:
        settled = now >= successor.issued + rules.settle and successor.authority in published
        if settled or now >= current.expires:
            return Certificates(successor, previous=current.authority)
        return None
    if now >= current.expires:
        return Certificates(Pair.issue(rules.hosts, now, rules.life))
    if now >= current.expires - rules.life / 3:
        return Certificates(current, next=Pair.issue(rules.hosts, now, rules.life))
    return None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
