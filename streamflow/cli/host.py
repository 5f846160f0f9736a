"""Wait here for processes of graphs that are run elsewhere."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from ..errors import TransportError


@click.command()
@click.option("--listen", default="127.0.0.1:7600", show_default=True, metavar="ADDRESS:PORT",
              help="Where supervisors find this host.")  # fmt: skip
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE.key_secret",
              help="This host's secret key.")  # fmt: skip
@click.option("--allow", type=click.Path(path_type=Path), multiple=True,
              metavar="FILE.key|FOLDER", help="Public keys of who may run processes here. May be "
              "given several times.")  # fmt: skip
@click.option("--insecure", is_flag=True,
              help="Let anyone who reaches the address run processes here.")  # fmt: skip
def command(listen: str, key: Path | None, allow: tuple[Path, ...], insecure: bool) -> int:
    """Run processes of graphs whose `hosts` name this machine, until Ctrl-C.

    Who may connect can run any installed node here. Anything but a loopback address needs a key
    (`streamflow keys new`) and the public keys of those who are allowed.
    """
    from ..host import Host
    from ..network import is_loopback, read_allowed, read_secret

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("streamflow").setLevel(logging.INFO)
    if key is None and not insecure and not is_loopback(listen):
        raise TransportError(
            f"{listen} can be reached by others: give --key and --allow (streamflow keys new), or "
            "--insecure"
        )
    if key is not None and not allow:
        raise TransportError("nobody is allowed: name public keys with --allow")
    if insecure and key is not None:
        raise TransportError("--insecure together with --key: leave one of them out")
    keys = read_secret(key) if key is not None else None
    host = Host(listen, keys, read_allowed(allow))
    how = "with keys" if keys else "WITHOUT keys"
    click.echo(f"waiting at {host.address} ({how})")
    sys.stdout.flush()
    host.serve()
    return 0
