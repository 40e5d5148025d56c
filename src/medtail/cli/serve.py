"""`medtail serve`: a trained run behind one page and a JSON interface, on this machine unless told otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from medtail.serving.settings import ServeSettings

EngineChoice = Literal["torch", "onnx"]
SERVE_EXAMPLE = """Examples:

  medtail serve runs/quick

  medtail serve runs/quick --similar-cases manifest.csv --port 8080

  medtail serve runs/quick --engine onnx

  medtail serve runs/quick --host 0.0.0.0 --token new
"""


def serve(
    run: Annotated[Path, typer.Argument(help="A run folder made by `medtail train`.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MEDTAIL_TOKEN",
            show_envvar=True,
            show_default=False,
            help="What clients must send; `new` makes one. The variable hides it from other users of this machine.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name this server is called by.", show_default=False)
    ] = None,
    similar_cases: Annotated[
        Path | None,
        typer.Option(help="Manifest whose training cases the page may show.", show_default=False),
    ] = None,
    heat: Annotated[bool, typer.Option("--heat/--no-heat", help="Offer heat maps.")] = True,
    max_mb: Annotated[float, typer.Option(help="Largest file, megabytes.")] = 32.0,
    max_pixels: Annotated[int, typer.Option(help="Largest image, pixels of a frame.")] = 40_000_000,
    timeout: Annotated[float, typer.Option(help="Longest time for a request, seconds.")] = 30.0,
    queue: Annotated[int, typer.Option(help="Requests let in at once; further ones get 503.")] = 16,
    rate: Annotated[float, typer.Option(help="Requests a second from one address, on average.")] = 20.0,
    burst: Annotated[int, typer.Option(help="Requests one address may make at once.")] = 60,
    limit_rate: Annotated[bool, typer.Option("--limit-rate/--no-rate-limit", help="Keep --rate.")] = True,
    decoders: Annotated[int, typer.Option(help="Processes that open files.")] = 2,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the model; half the cores if left out.", show_default=False)
    ] = None,
    engine: Annotated[
        EngineChoice, typer.Option(help="torch, or onnx for what `medtail export` wrote into the run: faster.")
    ] = "torch",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Serve a trained run: one page that works offline, and a JSON interface. For research use only.

    Files are opened in processes of their own with limits on time and memory, and never written to disk. Logs are JSON
    lines on stderr, without patient data or file names. Ctrl-C stops the server.
    """
    import contextlib

    from medtail.cli.progress import bar
    from medtail.serving.server import serve as run_server
    from medtail.serving.settings import ServeSettings, new_token

    settings = ServeSettings(
        host=host,
        port=port,
        token=new_token() if token == "new" else token,
        allow_hosts=tuple(allow_host or ()),
        max_mb=max_mb,
        max_pixels=max_pixels,
        timeout_s=timeout,
        queue=queue,
        rate=rate if limit_rate else None,
        burst=burst,
        decoders=decoders,
        threads=threads,
        heat_maps=heat,
        engine=engine,
    )

    waiting = contextlib.ExitStack()

    def say(bound: ServeSettings) -> None:
        waiting.close()  # the bar: what follows may take days
        made = f"#token={bound.token}" if token == "new" else ""
        typer.echo(f"{run}: open {bound.url}{made}")
        if bound.token is not None and not made:
            typer.echo("The page asks for the token.")
        if not bound.is_loopback:
            typer.echo(
                "! Without encryption, token and images can be read on the way. Put a TLS proxy in front.", err=True
            )
        sys.stdout.flush()

    with waiting:
        tick = waiting.enter_context(bar("similar cases", quiet=quiet or similar_cases is None))
        run_server(run, settings, similar=similar_cases, say=say, progress=tick)
