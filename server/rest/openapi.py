"""The OpenAPI document of the REST interface (``GET /openapi.json``), for people and for generators.

    operations (method, path) -> parameters, body, answers         one entry each, made of the parts below
    every operation also answers ``default``: an error, in body and headers

Two tests keep it true: its routes must be those of server.rest, and requests generated from it must be answered as it
says (tests/test_openapi.py)."""

from __future__ import annotations

from typing import Any

import server

Json = dict[str, Any]

MEDIA = ("application/json", "application/x-msgpack")


def document(*, dev: bool) -> Json:
    """The document; ``dev``: with the operations of development mode."""
    paths: Json = {}
    for method, path, operation in [*_OPERATIONS, *(_DEVELOPMENT if dev else ())]:
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        parameters = [_parameter(name, {"type": "string", "minLength": 1}, where="path") for name in names]
        told = operation.get("responses", {})
        paths.setdefault(path, {})[method.lower()] = operation | {
            "parameters": [*parameters, *operation.get("parameters", ()), *_EVERYWHERE],
            "responses": told | {"default": {"$ref": "#/components/responses/Error"}},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Unbroken",
            "version": server.VERSION,
            "description": "Realtime messages over REST. Content-Type and Accept select JSON or msgpack.",
        },
        "paths": paths,
        "security": [{"key": []}, {"token": []}, {"keyInQuery": []}, {"tokenInQuery": []}],
        "components": {"schemas": _SCHEMAS, "responses": {"Error": _ERROR}, "securitySchemes": _SECURITY},
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Json, media: tuple[str, ...] = MEDIA) -> Json:
    return {kind: {"schema": schema} for kind in media}


def _parameter(name: str, schema: Json, text: str = "", *, where: str = "query", required: bool = False) -> Json:
    made: Json = {"name": name, "in": where, "schema": schema}
    if text:
        made["description"] = text
    if required or where == "path":
        made["required"] = True
    return made


def _answer(schema: Json | None, text: str, *, links: bool = False) -> Json:
    made: Json = {"description": text}
    if schema is not None:
        made["content"] = _content(schema)
    if links:
        made["headers"] = {"Link": {"schema": {"type": "string"}, "description": 'rel="first", "current", "next"'}}
    return made


def _array(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


def _outcomes(each: Json) -> Json:
    """The schema of a request for many things at once: how many succeeded, and the result of each."""
    return {
        "type": "object",
        "required": ["successCount", "failureCount", "results"],
        "properties": {"successCount": _COUNT, "failureCount": _COUNT, "results": _array(each)},
    }


def _one_or_many(schema: Json) -> Json:
    return {"oneOf": [schema, _array(schema, minItems=1)]}


def _body(schema: Json, *, required: bool = True) -> Json:
    return {"required": required, "content": _content(schema)}


_EVERYWHERE = (
    _parameter("format", {"enum": ["json", "msgpack"]}, "Format of the answer, if Accept does not select one."),
    _parameter("envelope", {"enum": ["json", "msgpack"]}, "Put status and headers into the body, and answer 200."),
)
_LIMIT = _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
_DIRECTION = _parameter("direction", {"enum": ["backwards", "forwards"], "default": "backwards"})
_TIME: Json = {"type": "integer", "minimum": 0, "maximum": (1 << 48) - 1}
_MOMENT: Json = {
    "anyOf": [
        _TIME | {"not": {"minimum": 1000, "maximum": 9999}},  # four digits would be a year, and are refused
        {"type": "string", "pattern": r"^\d{4}-\d{2}(-\d{2}(:\d{2}(:\d{2})?)?)?$"},
    ]
}
_RANGE = (
    _parameter("start", _TIME, "In ms, inclusive."),
    _parameter("end", _TIME, "In ms, inclusive."),
    _LIMIT,
    _DIRECTION,
)
_CURSOR = _parameter("cursor", {"type": "string"}, "As in a Link header.")

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_INFO: Json = {
    "type": "object",
    "required": ["code", "statusCode", "message"],
    "properties": {
        "code": {"type": "integer", "minimum": 10000},
        "statusCode": {"type": "integer", "minimum": 400, "maximum": 599},
        "message": _TEXT,
    },
}
_ERROR: Json = {
    "description": "Error. X-Ably-Errorcode and X-Ably-Errormessage have its code and message, too.",
    "content": _content({"type": "object", "required": ["error"], "properties": {"error": _ref("ErrorInfo")}}),
}
_SECURITY: Json = {
    "key": {"type": "http", "scheme": "basic", "description": "A key, <app>.<id>:<secret>, in base64."},
    "token": {"type": "http", "scheme": "bearer", "description": "A token, or its base64."},
    "keyInQuery": {"type": "apiKey", "in": "query", "name": "key"},
    "tokenInQuery": {"type": "apiKey", "in": "query", "name": "access_token"},
}
_SCHEMAS: Json = {
    "ErrorInfo": _INFO,
    "NewMessage": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1},
            "name": _TEXT,
            "clientId": {"type": "string", "minLength": 1},
            "data": {"type": ["string", "object", "array", "null"]},
            "encoding": _TEXT,
            "extras": {"type": "object"},
            "connectionKey": {"type": "string", "description": "Publish on behalf of this live connection."},
        },
    },
    "Message": {
        "type": "object",
        "required": ["id", "timestamp", "action", "serial", "version"],
        "properties": {
            "id": _TEXT,
            "timestamp": _COUNT,
            "action": {"const": 0},
            "serial": _TEXT,
            "name": _TEXT,
            "clientId": _TEXT,
            "connectionId": _TEXT,
            "encoding": _TEXT,
            "extras": {"type": "object"},
            "version": {"type": "object", "required": ["serial", "timestamp"]},
        },
    },
    "Published": {
        "type": "object",
        "required": ["channel", "messageId", "serials"],
        "properties": {"channel": _TEXT, "messageId": _TEXT, "serials": _array(_TEXT, minItems=1)},
    },
    "BatchSpec": {
        "type": "object",
        "required": ["channels", "messages"],
        "properties": {
            "channels": {"oneOf": [_TEXT, _array(_TEXT, minItems=1, maxItems=100)]},
            "messages": {"oneOf": [_ref("NewMessage"), _array(_ref("NewMessage"), minItems=1, maxItems=1000)]},
        },
    },
    "BatchResult": _outcomes(
        {
            "type": "object",
            "required": ["channel"],
            "properties": {"channel": _TEXT, "error": _ref("ErrorInfo")},
            "oneOf": [{"required": ["error"]}, {"required": ["messageId"]}],
        }
    ),
    "Revoked": _outcomes(
        {
            "type": "object",
            "required": ["target"],
            "properties": {"target": _TEXT, "appliesAt": _COUNT, "error": _ref("ErrorInfo")},
        }
    ),
    "ChannelDetails": {
        "type": "object",
        "required": ["channelId", "status"],
        "properties": {
            "channelId": _TEXT,
            "name": _TEXT,
            "status": {
                "type": "object",
                "required": ["isActive", "occupancy"],
                "properties": {
                    "isActive": {"type": "boolean"},
                    "occupancy": {
                        "type": "object",
                        "required": ["metrics"],
                        "properties": {"metrics": {"type": "object", "additionalProperties": _COUNT}},
                    },
                },
            },
        },
    },
    "Statistics": {
        "type": "object",
        "required": ["intervalId", "unit", "entries"],
        "properties": {
            "intervalId": _TEXT,
            "unit": {"enum": ["minute", "hour", "day", "month"]},
            "inProgress": _TEXT,
            "entries": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
        },
    },
    "TokenDetails": {
        "type": "object",
        "required": ["token", "issued", "expires", "capability"],
        "properties": {"token": _TEXT, "issued": _COUNT, "expires": _COUNT, "capability": _TEXT, "clientId": _TEXT},
    },
}

_HISTORY: Json = {
    "summary": "List stored messages, page by page",
    "parameters": [*_RANGE, _parameter("from_serial", _TEXT, "Read backwards from this serial."), _CURSOR],
    "responses": {"200": _answer(_array(_ref("Message")), "A page.", links=True)},
}
_OPERATIONS: list[tuple[str, str, Json]] = [
    ("GET", "/time", {
        "summary": "Get the server's time",
        "security": [],
        "responses": {"200": _answer(_array(_COUNT, minItems=1, maxItems=1), "The time in ms.")},
    }),
    ("GET", "/health", {
        "summary": "Get the server's health",
        "security": [],
        "responses": {
            "200": _answer({"type": "object", "required": ["status", "reasons"]}, "Healthy."),
            "503": _answer({"type": "object", "required": ["status", "reasons"]}, "Degraded."),
        },
    }),
    ("GET", "/openapi.json", {
        "summary": "Get this document",
        "security": [],
        "responses": {"200": _answer({"type": "object", "required": ["openapi", "paths"]}, "OpenAPI 3.1.")},
    }),
    ("POST", "/channels/{channelId}/messages", {
        "summary": "Publish messages; they are stored before the answer",
        "requestBody": {
            "required": True,
            "content": _content(_one_or_many(_ref("NewMessage")))
            | _content(_TEXT, ("text/plain", "application/octet-stream")),
        },
        "responses": {"201": _answer(_ref("Published"), "All of them are stored.")},
    }),
    ("GET", "/channels/{channelId}/messages", _HISTORY),
    ("GET", "/channels/{channelId}/history", _HISTORY),
    ("GET", "/channels/{channelId}", {
        "summary": "Get the status of a channel",
        "responses": {"200": _answer(_ref("ChannelDetails"), "The status, even of a channel that is not in use.")},
    }),
    ("GET", "/channels", {
        "summary": "List channels in use, by name",
        "parameters": [_parameter("prefix", _TEXT), _parameter("by", {"enum": ["id", "value"]}), _LIMIT, _CURSOR],
        "responses": {"200": _answer(_array({"oneOf": [_TEXT, _ref("ChannelDetails")]}), "A page.", links=True)},
    }),
    ("POST", "/messages", {
        "summary": "Publish on many channels, each independently",
        "requestBody": _body(_one_or_many(_ref("BatchSpec"))),
        "responses": {"201": _answer(_one_or_many(_ref("BatchResult")), "The outcome of each publish.")},
    }),
    ("GET", "/stats", {
        "summary": "Get statistics of the app",
        "parameters": [
            _parameter("unit", {"enum": ["minute", "hour", "day", "month"], "default": "minute"}),
            _parameter("start", _MOMENT, "In ms, or an interval such as 2024-02-03:15; inclusive."),
            _parameter("end", _MOMENT, "Likewise; the beginning of an interval counts."),
            _LIMIT,
            _DIRECTION,
            _CURSOR,
        ],
        "responses": {"200": _answer(_array(_ref("Statistics")), "A page.", links=True)},
    }),
    ("POST", "/keys/{keyName}/requestToken", {
        "summary": "Request a token, with a signed request or with the key",
        "security": [{}, {"key": []}, {"keyInQuery": []}],
        "requestBody": _body({"type": "object"}, required=False),
        "responses": {"200": _answer(_ref("TokenDetails"), "The token.")},
    }),
    ("POST", "/keys/{keyName}/revokeTokens", {
        "summary": "Revoke tokens of a key, by clientId, revocation key or channel",
        "security": [{"key": []}],
        "requestBody": _body({
            "type": "object",
            "required": ["targets"],
            "properties": {"targets": _array(_TEXT, minItems=1, maxItems=100)},
        }),
        "responses": {"201": _answer(_ref("Revoked"), "The outcome for each target.")},
    }),
]  # fmt: skip
_DEVELOPMENT: list[tuple[str, str, Json]] = [
    ("POST", "/apps", {
        "summary": "Create an app",
        "security": [],
        "requestBody": _body({"type": "object"}, required=False),
        "responses": {"201": _answer({"type": "object", "required": ["appId", "keys"]}, "The app, with its keys.")},
    }),
    ("DELETE", "/apps/{appId}", {
        "summary": "Delete an app, with one of its keys",
        "security": [{"key": []}],
        "responses": {"204": _answer(None, "Deleted.")},
    }),
    ("POST", "/stats", {
        "summary": "Add statistics, for tests",
        "requestBody": _body(_one_or_many({"type": "object"})),
        "responses": {"201": _answer({"type": "object"}, "Added.")},
    }),
]  # fmt: skip
