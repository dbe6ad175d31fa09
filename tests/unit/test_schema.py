"""The models, the JSON schema made from them, and the examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.control.blocks.message.access_log import ROUTE_LOG_OFF
from gateway.control.blocks.upstream.health import Health
from gateway.control.json_schema import json_schema, known_fields, rendered_schema
from gateway.control.load import load
from gateway.control.reading.expand import expand
from gateway.control.schema import Config
from gateway.control.tools.starter import SCHEMA_LINE, STARTER
from gateway.control.words.model import Model

CONFIG = Path(__file__).parents[2] / "config"
EXAMPLES = sorted(CONFIG.glob("*.yaml"))


def models(model: type[BaseModel] = Model) -> Iterator[type[BaseModel]]:
    """Every configuration model."""
    for child in model.__subclasses__():
        yield child
        yield from models(child)


MODELS = {model.__name__: model for model in models()}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_field_is_described(model: type[BaseModel]) -> None:
    """The descriptions are the manual: every block and every field has one, and no block takes unknown fields."""
    assert model.__doc__
    assert model.model_config["extra"] == "forbid"
    assert model.model_config["frozen"]
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_json_schema_is_up_to_date() -> None:
    """`config/gateway.schema.json` is what `gateway schema` prints."""
    assert (CONFIG / "gateway.schema.json").read_text(encoding="utf-8") == rendered_schema()


def test_the_json_schema_is_for_editors() -> None:
    """It keeps to draft 7, closes every block, and knows no nulls."""
    text = json.dumps(json_schema())

    assert json_schema()["$schema"] == "http://json-schema.org/draft-07/schema#"
    for absent in ("prefixItems", "unevaluatedProperties", '"null"', '"title": "Path"'):
        assert absent not in text
    for name, block in json_schema()["$defs"].items():
        objects = [choice for choice in block.get("anyOf", [block]) if choice.get("type") == "object"]
        assert objects, name
        assert all(choice["additionalProperties"] is False for choice in objects), name


def test_known_fields() -> None:
    """Suggestions come from the fields of the very block."""
    assert "upstream" in known_fields(("routes", 3))
    assert known_fields(("routes", 3, "timeout")) == ["request", "attempt", "connect", "idle"]
    assert known_fields(("upstreams", "any name", "endpoints", 0)) == ["url", "weight", "backup"]
    assert known_fields(("routes", 3, "request_fields", "set")) == []
    assert known_fields(("nowhere", 1)) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_load(path: Path) -> None:
    """Every example is valid and names the schema in its first line."""
    load(path, {})

    assert path.read_text(encoding="utf-8").splitlines()[0] == SCHEMA_LINE


def test_the_starter_loads(tmp_path: Path) -> None:
    """What `gateway init` writes is valid."""
    path = tmp_path / "gateway.yaml"
    path.write_text(STARTER, encoding="utf-8")

    assert [route.name for route in load(path, {}).config.routes] == ["everything"]


def block(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields of a block."""
    definition: dict[str, Any] = schema["$defs"][name]
    choices: list[dict[str, Any]] = definition.get("anyOf", [definition])
    return next(choice["properties"] for choice in choices if "properties" in choice)


def test_the_reference_mentions_every_field() -> None:
    """`config/gateway.yaml` shows every field there is."""
    text = (CONFIG / "gateway.yaml").read_text(encoding="utf-8")
    schema = json_schema()
    names = {name for definition in schema["$defs"] for name in block(schema, definition)} | set(schema["properties"])

    missing = {name for name in names if f"{name}:" not in text and f"`{name}`" not in text}

    assert not missing


def test_the_reference_shows_the_defaults() -> None:
    """Where `config/gateway.yaml` does not say "example", it says what holds anyway."""
    full, minimal = load(CONFIG / "gateway.yaml", {}).config, load(CONFIG / "minimal.yaml", {}).config

    assert full.server.model_copy(update={"limits": None}) == minimal.server.model_copy(update={"limits": None})
    assert full.server.limits.model_copy(update={"body": None}) == minimal.server.limits
    assert full.admin == minimal.admin
    assert full.access_log == minimal.access_log
    users, app = full.upstreams["users"], minimal.upstreams["app"]
    example = {"endpoints": (), "health": None}
    assert users.model_copy(update=example) == app.model_copy(update=example)
    assert users.health is not None
    assert users.health.model_copy(update={"path": "/"}) == Health.model_validate({})


def test_short_forms() -> None:
    """A bare value stands for the one field that is meant."""
    route = {"name": "a", "match": {}, "timeout": "2s", "redirect": "/b"}
    config = Config.model_validate({"version": "1", "server": {"listen": ":1"}, "access_log": "x.log", "routes": [route]})

    assert config.routes[0].timeout is not None
    assert config.routes[0].timeout.request == 2.0
    assert config.routes[0].redirect is not None
    assert config.routes[0].redirect.to == "/b"
    assert config.server.listen[0].address.port == 1
    assert config.access_log is not None
    assert config.access_log.file == "x.log"


def test_off() -> None:
    """`off` turns things off where that means something."""
    route = {"name": "a", "match": {}, "respond": "404", "upgrades": "off", "limits": {"body": "off"}, "access_log": "off"}
    config = Config.model_validate({"version": "1", "admin": {"listen": "off"}, "access_log": "off", "routes": [route]})

    assert config.admin.listen is None
    assert config.access_log is None
    assert config.routes[0].upgrades == ()
    assert config.routes[0].limits is not None
    assert config.routes[0].limits.body == -1
    assert config.routes[0].access_log == ROUTE_LOG_OFF


def test_secrets_are_hidden() -> None:
    """A secret does not show in a representation of the configuration."""
    tls = {"certificate": "a", "key": "b", "key_password": "hunter2"}
    route = {"name": "a", "match": {}, "respond": "404"}
    listen = [{"address": ":1", "tls": tls}]
    config = Config.model_validate({"version": "1", "server": {"listen": listen}, "routes": [route]})

    assert "hunter2" not in repr(config)
    (settings,) = config.server.listen[0].certificates
    assert settings.secret("key_password") == "hunter2"


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    """`*_file` reads the secret from a file, without the final line break."""
    (tmp_path / "pass").write_text("hunter2\n", encoding="utf-8")
    tls = {"certificate": "a", "key": "b", "key_password_file": "pass"}
    route = {"name": "a", "match": {}, "respond": "404"}
    document = {"version": "1", "server": {"listen": [{"address": ":1", "tls": tls}]}, "routes": [route]}

    (settings,) = Config.model_validate(document, context={"base": tmp_path}).server.listen[0].certificates

    assert settings.certificate == tmp_path / "a"
    assert settings.secret("key_password") == "hunter2"


def test_expansion_is_not_repeated() -> None:
    """What a variable holds is not expanded again."""
    assert expand("${A}", {"A": "${B}", "B": "x"}, Path()) == "${B}"
