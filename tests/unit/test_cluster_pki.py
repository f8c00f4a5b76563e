import base64
import json
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dev.cluster.pki import Authority, Pair, create_signing_key, write_kubeconfig


def load(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def usages(pair: Pair) -> set[x509.ObjectIdentifier]:
    return set(load(pair).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_client_certificate_names_user_and_groups(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "ca")
    pair = authority.issue("client", "jane", organizations=["writers", "readers"])
    subject = load(pair).subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["jane"]
    organizations = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [a.value for a in organizations] == ["writers", "readers"]
    assert usages(pair) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    load(pair).verify_directly_issued_by(load(authority.pair))


def test_server_certificate_has_addresses_and_names(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "ca")
    pair = authority.issue("server", "server", hosts=["127.0.0.1", "localhost"])
    names = load(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert ExtendedKeyUsageOID.SERVER_AUTH in usages(pair)


def test_private_keys_are_for_the_owner_only(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "ca")
    keys = [
        authority.pair.key,
        authority.issue("a", "a").key,
        create_signing_key(tmp_path, "s").key,
    ]
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600] * 3


def test_kubeconfig_is_complete_and_any_name_stays_a_string(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "ca")
    path = write_kubeconfig(
        tmp_path / "kubeconfig",
        server="https://127.0.0.1:1",
        ca=authority.pair.certificate,
        client=authority.issue("client", "jane"),
        name="n",  # in YAML 1.1 a bare n is false
    )
    assert path.stat().st_mode & 0o777 == 0o600
    config = json.loads(path.read_text())
    (cluster,) = config["clusters"]
    assert cluster["name"] == config["current-context"] == "n"
    inline = cluster["cluster"]["certificate-authority-data"]
    assert base64.b64decode(inline) == authority.pair.certificate.read_bytes()
