"""What our WebSockets share: who may open one, from where, and how it is closed."""

from __future__ import annotations

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketHandler

RESOURCE = "atoll"
"""What the server's authorizer is asked about."""


class PageSocket(WebSocketMixin, WebSocketHandler, JupyterHandler):  # type: ignore[misc] # they come without types
    """A WebSocket to a page. Whoever may not read hears 403 instead of an upgrade (claim S13)."""

    auth_resource = RESOURCE

    def has_room(self) -> bool:
        """Whether one more page can be served."""
        raise NotImplementedError

    def set_default_headers(self) -> None:
        """Set none: they are for pages."""

    def skip_check_origin(self) -> bool:
        """Check the origin also of who brings a token: no page of another origin has business here."""
        return False

    @ws_authenticated
    async def get(self, *path: str, **more: str) -> None:
        """Upgrade, if the user may and the origin is ours."""
        allowed = await ensure_async(self.authorizer.is_authorized(self, self.current_user, "read", RESOURCE))
        if not allowed or not self.has_room():
            raise web.HTTPError(403)
        await super().get(*path, **more)

    def on_message(self, message: str | bytes) -> None:
        """Ignore it, where there is nothing to ask for."""

    def on_close(self) -> None:
        """Stop what Jupyter has started for the connection."""
        if self.ping_callback is not None:
            self.ping_callback.stop()
        super().on_close()
