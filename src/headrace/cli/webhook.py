"""`headrace webhook`: receives the events of a pipeline's webhook sources until it is told to end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, MissingExtra, SystemFault

MOST_CONNECTIONS = 2000


def webhook(
    path: Annotated[Path, typer.Argument(help="Pipeline file, or a folder with pipeline.yml.")] = Path(),
    env: Annotated[str | None, typer.Option("--env", "-e", help="Environment overlay.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for HTTPS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
) -> None:
    """Receive webhooks.

    An event that gets 200 is on disk, once; the next `headrace run` lands it. Ends on SIGINT or SIGTERM.
    """
    from .. import redact
    from ..spec.load import load

    project = load(path, env)
    redact.register(project.secrets)
    sources = [
        project.source(name) for name, spec in project.config.sources.items() if spec.type == "webhook"
    ]
    if not sources:
        raise ConfigError("this pipeline has no source of type webhook", hint="see docs/sources/webhook.md")
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        hint = "is the port taken? Choose another with --port"
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", hint=hint) from error
    with listener:
        shown = f"{'https' if certificate else 'http'}://{host}:{listener.getsockname()[1]}"
        server = _server(
            sources,
            shown,
            ssl_certfile=str(certificate) if certificate else None,
            ssl_keyfile=str(key) if key else None,
        )
        server.run(sockets=[listener])
    if not server.started:
        raise SystemFault("the receiver did not start", hint="what is above says why")


def _server(sources: list[Any], shown: str, **options: Any) -> Any:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtra("`headrace webhook` needs uvicorn", hint="pip install 'headrace[web]'") from error
    from ..sources.webhook_app import Receivers

    routes: dict[str, Any] = {}
    for source in sources:
        if source.route in routes:
            raise ConfigError(f"two webhook sources have the path {source.route}", hint="set `path` on one")
        routes[source.route] = source.receiver()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                for route in routes:
                    typer.echo(f"receiving at {shown}{route}")

    config = uvicorn.Config(
        Receivers(routes),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=10,
        lifespan="on",
        **options,
    )
    return Server(config)
