"""The extension as the Jupyter server loads it. What it is made of is in `atoll.kernel_ext.server`.

Its settings go where Jupyter's go, for example into `jupyter_server_config.py`:

    c.AtollExtension.start_cluster = False      # a cluster that runs is used; none is started
    c.AtollExtension.linger_s = 300             # how long the cluster outlives a server that was killed
"""

from __future__ import annotations

from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Float

from atoll.client.supervisor import Supervisor
from atoll.kernel_ext.server.cells import CellPages
from atoll.kernel_ext.server.cluster import ServerCluster
from atoll.kernel_ext.server.handlers import API, routes


class AtollExtension(ExtensionApp):  # type: ignore[misc] # jupyter_server comes without types for mypy
    """Starts the user's cluster with the Jupyter server, shows it, stops it with the server."""

    name = "atoll"
    load_other_extensions = True

    start_cluster = Bool(
        True,
        help="Start a cluster with the server, in the background, where none of this user runs on this host.",
    ).tag(config=True)

    linger_s = Float(
        60.0,
        allow_none=True,
        help="How long a cluster started here stays when the server has died and no kernel uses it; None for ever.",
    ).tag(config=True)

    def initialize_settings(self) -> None:
        """Make what the handlers share. Nothing is started yet."""
        self.cluster = ServerCluster(
            lambda: Supervisor(started_by="jupyter", linger_s=self.linger_s), starts=self.start_cluster, log=self.log
        )
        # Pages learn from it that there is something to connect to, so that none tries in vain.
        self.serverapp.web_app.settings.setdefault("page_config_data", {})["atollApi"] = API

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.cells = CellPages(self.cluster)
        self.handlers.extend(routes(self.cluster, self.cells))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Start the cluster in the background, once the server runs."""
        self.cluster.begin()

    async def stop_extension(self) -> None:
        """Stop what was started here. Jupyter calls it before it stops the kernels."""
        await self.cluster.end()
