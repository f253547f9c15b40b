"""docker-compose.yml, the Dockerfile and deploy/nginx.conf agree with each other and with the code. test_proxied_nodes.py runs nginx with that file."""

import fnmatch
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from streamer.http.dialects import DIALECTS
from streamer.http.native.routes import RESOURCES, ROUTES
from streamer.http.operation import Operation
from streamer.server.connection import KEPT_SECONDS
from streamer.settings import PREFIX, Settings, load
from tests.support.cli import commands
from tests.support.tools import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = {name: service for name, service in SERVICES.items() if name.startswith("node")}
NGINX = (ROOT / "deploy" / "nginx.conf").read_text()

VARIABLE = re.compile(r"\$\{(\w+)(:\?)?")
PINNED = re.compile(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)*")


def _filled(text: str) -> str:
    """Return a value of the file with a secret in the place of each variable."""
    return re.sub(r"\$\{\w+:\?[^}]*\}", "0123456789abcdef0123456789abcdef", text)


def _operations() -> Iterator[Operation]:
    for each in [*RESOURCES, *DIALECTS]:
        yield from each.operations


def test_images_are_pinned() -> None:
    """Each image has a full version; the nodes run the image of the Dockerfile."""
    for name, service in SERVICES.items():
        if name in NODES:
            assert service["build"] == "."
        else:
            assert PINNED.fullmatch(service["image"]), service["image"]
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    assert PINNED.fullmatch(bases[0])


def test_secrets_have_no_default() -> None:
    """Each variable is required, and no password is written into the file."""
    used = VARIABLE.findall(COMPOSE_TEXT)
    assert {name for name, _ in used} == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "STREAMER_ADMIN_KEY"}
    assert all(required for _, required in used)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|AUTH|_URL", name):
                assert "${" in value, name


@pytest.mark.parametrize("name", NODES)
def test_nodes_have_valid_settings(name: str) -> None:
    """The settings of image and service exist and are accepted, and the URLs lead to the file's own services."""
    image = dict(re.findall(rf"({PREFIX}\w+)=(\S+)", DOCKERFILE))
    given = image | {variable: _filled(value) for variable, value in NODES[name]["environment"].items()}
    settings = load({}, given)
    assert (settings.host, settings.carrier, settings.node_name) == ("0.0.0.0", "redis", name)
    for url, port in ((settings.database_url, ""), (settings.redis_url, ":6379")):
        assert url
        host = re.sub(r"^\w+://[^@]*@", "", url.get_secret_value()).split("/")[0]
        assert host.removesuffix(port) in SERVICES
        assert NODES[name]["depends_on"][host.removesuffix(port)] == {"condition": "service_healthy"}
    database = SERVICES["postgresql"]["environment"]
    assert f"//{database['POSTGRES_USER']}:" in settings.database
    assert settings.database.endswith(f"/{database['POSTGRES_DB']}")


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_health_checks(name: str) -> None:
    """Each service has a check; checks over HTTP use a route and a port that exist."""
    check = " ".join(SERVICES[name]["healthcheck"]["test"])
    if name in NODES or name == "proxy":
        found = re.search(r"http://127\.0\.0\.1(:\d+)?(/\w+)", check)
        assert found
        assert found[2] in {route.path for route in ROUTES}
        port = Settings.model_fields["port"].default if name in NODES else 80
        assert (found[1] or ":80") == f":{port}"


def test_a_node_has_time_to_drain() -> None:
    """The container engine waits longer than a node takes to stop."""
    for service in NODES.values():
        stop = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
        assert stop
        settings = load({}, {PREFIX + "DRAIN_NOTICE_SECONDS": service["environment"][PREFIX + "DRAIN_NOTICE_SECONDS"]})
        assert int(stop[1]) > settings.drain_notice_seconds + settings.drain_seconds


def test_only_the_proxy_can_be_reached() -> None:
    """Only nginx publishes a port, to this machine; it is the port that nginx listens on."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    (port,) = re.findall(r"listen (\d+);", NGINX)
    assert published == {"proxy": [f"127.0.0.1:8080:{port}"]}


def test_the_proxy_knows_the_nodes() -> None:
    """Nginx names each node with the server's port in each upstream, and their addresses are fixed, because it looks them up once."""
    port = Settings.model_fields["port"].default
    assert f"EXPOSE {port}" in DOCKERFILE
    upstreams = re.findall(r"upstream \w+ \{(.*?)\}", NGINX, re.DOTALL)
    assert len(upstreams) == 2
    for upstream in upstreams:
        assert re.findall(r"server (\S+) ", upstream) == [f"{name}:{port}" for name in NODES]
    for name in NODES:
        assert NODES[name]["networks"]["default"]["ipv4_address"].startswith("172.30.83.")
        assert SERVICES["proxy"]["depends_on"][name] == {"condition": "service_healthy"}
    addresses = [service["networks"]["default"]["ipv4_address"] for service in SERVICES.values()]
    assert len(set(addresses)) == len(SERVICES)


def test_the_proxy_waits_longer_than_the_server() -> None:
    """The limits of nginx exceed the server's; it keeps unused connections for less time than the server does."""
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    assert int(seconds) > max(settings["heartbeat_seconds"], settings["max_wait_seconds"])
    (mebibytes,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    assert int(mebibytes) * 2**20 > settings["max_body_bytes"]
    assert "keepalive_timeout" not in NGINX
    assert KEPT_SECONDS > 60, "nginx's default"


def test_the_proxy_knows_the_paths() -> None:
    """Nginx treats exactly the streams as streams, and finds the workspace in each path that has one."""
    (streams,) = re.findall(r"location ~ (\S+) \{", NGINX)
    finds = re.findall(r"^ +~(\^\S+) +\$workspace;", NGINX, re.MULTILINE)
    for operation in _operations():
        path = re.sub(r"\{\w+\}", "x", operation.path.replace("{ws}", "ann's"))
        assert bool(re.search(streams, path)) == operation.streams, path
        found = [match[1] for match in (re.search(find.replace("?<", "?P<"), path) for find in finds) if match]
        assert found == (["ann's"] if "{ws}" in operation.path else []), path


def test_the_image_has_its_files() -> None:
    """What the Dockerfile copies exists and is sent to the engine, and its command is one of streamer's."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = re.findall(r"^COPY ([^-\s]\S*)", DOCKERFILE, re.MULTILINE)
    assert copied == ["requirements.lock", "streamer", "static"]
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
        assert not any(fnmatch.fnmatch(name, each) for each in ignored[1:] if not each.startswith("!"))
    (command,) = re.findall(r'^CMD \["(\w+)"\]', DOCKERFILE, re.MULTILINE)
    assert command in {name for name, _ in commands()}
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file(), volume
