from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import msgspec
import pytest
from jupyter_server.serverapp import ServerApp
from tornado.httpclient import HTTPClientError, HTTPResponse
from tornado.web import RequestHandler
from tornado.websocket import websocket_connect

from atoll.kernel_ext.server.cluster import WATCH_INTERVAL_S, ServerCluster
from atoll.protocol.messages import DropName, GetState, KillActor, RegisterJob
from atoll.protocol.state import decode_state
from tests.server.hand_scheduler import KEY, HandScheduler
from tests.widgets.sample_state import NOW, sample_state

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ACTOR = "e1" * 16
WATCH = "atoll/api/state/watch"
CELLS = "atoll/api/cells/watch"


def our_routes(app: ServerApp) -> Iterator[tuple[str, type[RequestHandler]]]:
    """Yield a path and the handler of each of our rules, read from the router."""
    for host_rule in app.web_app.default_router.rules:
        for rule in getattr(host_rule.target, "rules", []):
            pattern = rule.matcher.regex.pattern
            if "atoll" in pattern:
                path = pattern.removesuffix("$").removeprefix("^").replace("\\", "")
                yield path.replace("([0-9a-f]{32})", ACTOR).replace("([^/]+)", "flights"), rule.target


def body_for(method: str) -> dict[str, Any]:
    return {
        "method": method,
        "allow_nonstandard_methods": True,
        "body": b"" if method in ("POST", "PUT", "PATCH") else None,
    }


async def status_of(client: Any, path: str, method: str = "GET", **options: Any) -> int:
    response: HTTPResponse = await client.fetch(
        path, raise_error=False, **body_for(method), follow_redirects=False, **options
    )
    return response.code


def test_the_router_has_all_our_routes(extension: Any, jp_serverapp: ServerApp, jp_base_url: str) -> None:
    paths = {path.removeprefix("/a%40b/").removeprefix(jp_base_url) for path, _handler in our_routes(jp_serverapp)}
    assert paths == {
        "atoll/api/state",
        "atoll/api/state/watch",
        "atoll/api/cells/watch",
        "atoll/api/health",
        "atoll/api/metrics",
        f"atoll/api/actors/{ACTOR}/kill",
        "atoll/api/names/flights",
        "atoll/api/cluster/restart",
    }


async def test_s12_every_route_and_method_rejects_anonymous_use(
    scheduler: HandScheduler, jp_serverapp: ServerApp, http_server_client: Any
) -> None:
    assert jp_serverapp.allow_unauthenticated_access is True
    said = len(scheduler.messages)
    implemented = 0
    for path, handler in our_routes(jp_serverapp):
        for method in METHODS:
            status = await status_of(http_server_client, path, method)
            ours = getattr(handler, method.lower()) is not getattr(RequestHandler, method.lower())
            implemented += ours
            assert status == 403 if ours else status in (403, 405), f"{method} {path}: {status}"
    assert implemented >= 14
    assert len(scheduler.messages) == said


async def test_s12_who_is_authenticated_and_not_authorised_is_refused(
    scheduler: HandScheduler, jp_serverapp: ServerApp, http_server_client: Any, jp_auth_header: dict[str, str]
) -> None:
    asked: list[tuple[str, str]] = []

    def refuse(_handler: Any, _user: Any, action: str, resource: str) -> bool:
        asked.append((action, resource))
        return False

    jp_serverapp.authorizer.is_authorized = refuse
    for path, handler in our_routes(jp_serverapp):
        for method in METHODS:
            if getattr(handler, method.lower()) is not getattr(RequestHandler, method.lower()):
                status = await status_of(http_server_client, path, method, headers=dict(jp_auth_header))
                assert status == 403, f"{method} {path}: {status}"
    assert {("read", "atoll"), ("write", "atoll")} <= set(asked)
    assert not any(isinstance(message, KillActor | DropName) for message in scheduler.messages)


async def test_s14_a_foreign_host_is_refused_on_every_route(
    scheduler: HandScheduler, jp_serverapp: ServerApp, http_server_client: Any, jp_auth_header: dict[str, str]
) -> None:
    said = len(scheduler.messages)
    for path, handler in our_routes(jp_serverapp):
        for method in METHODS:
            if getattr(handler, method.lower()) is not getattr(RequestHandler, method.lower()):
                headers = {**jp_auth_header, "Host": "rebound.example:8888"}
                assert await status_of(http_server_client, path, method, headers=headers) == 403, f"{method} {path}"
    assert len(scheduler.messages) == said


async def test_state_and_health(scheduler: HandScheduler, jp_fetch: Any) -> None:
    response = await jp_fetch("atoll", "api", "state")
    assert decode_state(response.body) == scheduler.state
    assert response.headers["Content-Type"] == "application/json"
    health = json.loads((await jp_fetch("atoll", "api", "health")).body)
    assert health["phase"] == "running"
    assert health["connected"] is True
    assert health["started_here"] is False
    assert health["cluster_id"] == scheduler.state.cluster_id


async def test_s11_no_answer_holds_the_key(scheduler: HandScheduler, jp_fetch: Any) -> None:
    for route in ("state", "health"):
        body = (await jp_fetch("atoll", "api", route)).body
        assert KEY.hex().encode() not in body
        assert KEY not in body


async def test_without_a_cluster_the_state_is_503_and_health_says_why(cluster: ServerCluster, jp_fetch: Any) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await jp_fetch("atoll", "api", "state")
    assert caught.value.code == 503
    health = json.loads((await jp_fetch("atoll", "api", "health")).body)
    assert health["phase"] == "off"
    assert health["text"]


async def test_s15_get_changes_nothing(scheduler: HandScheduler, jp_fetch: Any) -> None:
    for route in ("state", "health"):
        await jp_fetch("atoll", "api", route)
    for parts in (("actors", ACTOR, "kill"), ("names", "flights"), ("cluster", "restart")):
        with pytest.raises(HTTPClientError) as caught:
            await jp_fetch("atoll", "api", *parts)
        assert caught.value.code == 405
    assert {type(message) for message in scheduler.messages} <= {RegisterJob, GetState}


async def test_s15_a_cookie_alone_changes_nothing_without_xsrf(
    scheduler: HandScheduler, jp_serverapp: ServerApp, http_server_client: Any, jp_base_url: str
) -> None:
    token = jp_serverapp.identity_provider.token
    login = await http_server_client.fetch(
        f"{jp_base_url}tree?token={token}", raise_error=False, follow_redirects=False
    )
    cookies: SimpleCookie = SimpleCookie()
    for each in login.headers.get_list("Set-Cookie"):
        cookies.load(each)
    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())
    path = f"{jp_base_url}atoll/api/actors/{ACTOR}/kill"
    assert await status_of(http_server_client, f"{jp_base_url}atoll/api/state", headers={"Cookie": cookie}) == 200
    assert await status_of(http_server_client, path, "POST", headers={"Cookie": cookie}) == 403
    assert not any(isinstance(message, KillActor) for message in scheduler.messages)
    with_xsrf = {"Cookie": cookie, "X-XSRFToken": cookies["_xsrf"].value}
    assert await status_of(http_server_client, path, "POST", headers=with_xsrf) == 204
    assert any(isinstance(message, KillActor) for message in scheduler.messages)


async def test_kill_and_drop(scheduler: HandScheduler, jp_fetch: Any) -> None:
    response = await jp_fetch("atoll", "api", "actors", ACTOR, "kill", method="POST", body=b"")
    assert response.code == 204
    kill = scheduler.messages[-1]
    assert isinstance(kill, KillActor)
    assert kill.actor_id == bytes.fromhex(ACTOR)
    assert kill.no_restart
    assert (await jp_fetch("atoll", "api", "names", "weather", method="DELETE")).code == 204
    drop = scheduler.messages[-1]
    assert isinstance(drop, DropName)
    assert drop.name == "weather"
    for parts, method in ((("actors", "00" * 16, "kill"), "POST"), (("names", "nothing"), "DELETE")):
        with pytest.raises(HTTPClientError) as caught:
            await jp_fetch("atoll", "api", *parts, **body_for(method))
        assert caught.value.code == 404
        assert "no such" in json.loads(caught.value.response.body)["message"]


@pytest.mark.parametrize(
    "path",
    [
        "actors/../../../../etc/passwd/kill",
        "actors/%2e%2e%2f%2e%2e%2fetc%2fpasswd/kill",
        "actors/%2Fetc%2Fpasswd/kill",
        "actors/" + "e1" * 15 + "%00%00/kill",
        "actors/" + "E1" * 16 + "/kill",
        "actors/" + "e1" * 17 + "/kill",
        "actors/" + "e1" * 16 + "%0a/kill",
        "names/%00",
        "names/a%00b",
        "names/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "names/" + "x" * 2000,
        "names/%1b%5b31m",
    ],
)
async def test_s16_what_is_no_id_is_404(
    scheduler: HandScheduler, http_server_client: Any, jp_base_url: str, jp_auth_header: dict[str, str], path: str
) -> None:
    method = "POST" if path.startswith("actors") else "DELETE"
    status = await status_of(http_server_client, f"{jp_base_url}atoll/api/{path}", method, headers=dict(jp_auth_header))
    assert status == 404
    assert not any(isinstance(message, KillActor) for message in scheduler.messages)


# ------------------------------------------------------------------------------------------------- WebSocket


async def next_json(socket: Any, timeout_s: float = 5.0) -> Any:
    return json.loads(await asyncio.wait_for(socket.read_message(), timeout_s))


async def watched(scheduler: HandScheduler, wanted: list[float]) -> None:
    async with asyncio.timeout(5):
        while scheduler.watched_every != wanted:
            await asyncio.sleep(0.01)


async def test_watch_pushes_what_differs_and_only_while_somebody_looks(
    scheduler: HandScheduler, cluster: ServerCluster, jp_ws_fetch: Any, jp_http_port: int
) -> None:
    assert scheduler.watched_every == []
    socket = await jp_ws_fetch(*WATCH.split("/"))
    await watched(scheduler, [WATCH_INTERVAL_S])
    scheduler.push(scheduler.state)
    assert (await next_json(socket))["cluster_id"] == scheduler.state.cluster_id
    await asyncio.sleep(WATCH_INTERVAL_S)
    scheduler.push(msgspec.structs.replace(scheduler.state, now=NOW + 1))
    scheduler.push(sample_state(now=NOW + 2, seed=8))
    assert (await next_json(socket))["now"] == NOW + 2, "a state that differs only in its time is not sent"
    socket.close()
    await watched(scheduler, [])
    assert cluster.health().watchers == 0


async def test_watch_says_when_the_scheduler_is_lost(scheduler: HandScheduler, jp_ws_fetch: Any) -> None:
    socket = await jp_ws_fetch(*WATCH.split("/"))
    await watched(scheduler, [WATCH_INTERVAL_S])
    scheduler.close()
    assert (await next_json(socket))["kind"] == "trouble"
    socket.close()


async def upgrade_status(port: int, base_url: str, headers: dict[str, str], path: str = WATCH) -> int:
    from tornado.httpclient import HTTPRequest

    request = HTTPRequest(f"ws://localhost:{port}{base_url}{path}", headers=headers)
    try:
        socket = await websocket_connect(request)
    except HTTPClientError as error:
        return error.code
    socket.close()
    return 101


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:{port}.evil.example",
        "http://localhost:{port}@evil.example",
        "http://evil.example#localhost:{port}",
        "http://xlocalhost:{port}",
        "http://localhost:1",
        "http://127.0.0.1.evil.example:{port}",
    ],
)
async def test_s13_foreign_and_look_alike_origins_get_403_at_the_upgrade(
    scheduler: HandScheduler,
    http_server: Any,
    jp_http_port: int,
    jp_base_url: str,
    jp_auth_header: dict[str, str],
    origin: str,
) -> None:
    ours = {**jp_auth_header, "Origin": f"http://localhost:{jp_http_port}"}
    headers = {**jp_auth_header, "Origin": origin.format(port=jp_http_port)}
    for path in (WATCH, CELLS):
        assert await upgrade_status(jp_http_port, jp_base_url, ours, path) == 101
        assert await upgrade_status(jp_http_port, jp_base_url, headers, path) == 403


async def test_s13_no_user_no_upgrade(
    scheduler: HandScheduler, http_server: Any, jp_http_port: int, jp_base_url: str
) -> None:
    for headers in ({}, {"Authorization": "token wrong"}, {"Origin": f"http://localhost:{jp_http_port}"}):
        for path in (WATCH, CELLS):
            assert await upgrade_status(jp_http_port, jp_base_url, dict(headers), path) == 403


def test_no_pattern_is_open_at_its_end() -> None:
    from atoll.kernel_ext.server.handlers import routes

    for pattern, _handler, _given in routes(None, None):  # type: ignore[arg-type] # only the patterns are read
        assert re.fullmatch(pattern, "/atoll/api/state/../../x") is None
