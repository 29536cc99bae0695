"""Both SDKs through the real nginx and HAProxy, with the configurations that the documentation gives."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.checker import check
from tests.harness import history, request, wait_until
from tests.returning import marks_of
from tests.sdk.driving import SDKS, driver_of, require

pytestmark = pytest.mark.sdk
EXAMPLES = Path(__file__).parent.parent / "docs" / "proxies"
CONNECTS = 10
NGINX = """
user root;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/unbroken.conf;
}}
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def replaced(text, *changes):
    for old, new in changes:
        assert old in text, f"the example has no {old!r} any more"
        text = text.replace(old, new)
    return text


def nginx(directory, server, plain, secure):
    example = replaced(
        (EXAMPLES / "nginx.conf").read_text(),
        ("127.0.0.1:8080", f"127.0.0.1:{server.port}"),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{secure} ssl;"),
        ("/etc/ssl/unbroken/cert.pem", f"{directory}/both.pem"),
        ("/etc/ssl/unbroken/key.pem", f"{directory}/both.pem"),
    )
    (directory / "unbroken.conf").write_text(example)
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory))
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", "daemon off;"]


def haproxy(directory, server, plain, secure):
    example = replaced(
        (EXAMPLES / "haproxy.cfg").read_text(),
        ("127.0.0.1:8080", f"127.0.0.1:{server.port}"),
        ("bind :80\n", f"bind 127.0.0.1:{plain}\n"),
        ("bind :443 ", f"bind 127.0.0.1:{secure} "),
        ("/etc/ssl/unbroken/both.pem", f"{directory}/both.pem"),
        ("maxconn 65536", "maxconn 512"),
    )
    (directory / "haproxy.cfg").write_text(example)
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


@pytest.fixture(scope="module", params=[nginx, haproxy], ids=["nginx", "haproxy"])
def proxy(request, server, tmp_path_factory):
    """The ports for plain HTTP and for TLS, and the authority to trust."""
    name = request.param.__name__
    require(None if shutil.which(name) else f"{name} is not installed")
    directory, authority = tmp_path_factory.mktemp(name), trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    authority.cert_pem.write_to_path(directory / "authority.pem")
    plain, secure = free_port(), free_port()
    with (directory / "stderr.log").open("w") as errors:
        process = subprocess.Popen(request.param(directory, server, plain, secure), stderr=errors, stdout=errors)
    try:
        wait_until(lambda: answers(plain), what=f"{name}: {(directory / 'stderr.log').read_text()}")
        yield {"plain": plain, "tls": secure, "authority": directory / "authority.pem"}
    finally:
        process.terminate()
        process.wait()


def answers(port):
    try:
        return request(("127.0.0.1", port), "GET", "/time")[0] == 200
    except OSError:
        return False


@pytest.fixture(params=SDKS)
def driver(request, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(proxy["authority"]))
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy["authority"]))
    with driver_of(request.param, tmp_path) as made:
        yield made
        made.close_clients()


@pytest.mark.parametrize("way", ["plain", "tls"])
def test_every_connect_succeeds_over_kept_proxy_connections(proxy, driver, server, channel, way):
    tls = way == "tls"
    context = ssl.create_default_context(cafile=proxy["authority"]) if tls else None
    readers, publishers = [], []
    for n in range(CONNECTS):
        # Leaves a connection to the server behind that the proxy keeps, and takes for the next client's upgrade.
        assert request(("127.0.0.1", proxy[way]), "GET", "/time", tls=context)[0] == 200
        path = f"/channels/{channel}x/messages"
        assert request(("127.0.0.1", proxy[way]), "POST", path, {"name": "n"}, tls=context)[0] == 201
        client = driver.connect(proxy[way], binary=bool(n % 2), tls=tls, basic=True)
        client.subscribe(channel)
        readers.append(client)
    for n, client in enumerate(readers):
        client.flood(channel, f"p{n}", 20)
    for n, client in enumerate(readers):
        publishers.append(client.flooded(channel, f"p{n}"))
    for client in readers:
        client.messages(channel, 20 * CONNECTS)
    report = check(publishers, [client.log(channel) for client in readers], marks_of(history(server.address, channel)))
    assert not report.faults, str(report)
    assert report.delivered == 20 * CONNECTS * CONNECTS
