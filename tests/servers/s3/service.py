"""What the operations work on: one value, built once, handed to each of them."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.s3.bodies import PatternSource, Spool
from tests.servers.s3.knobs import Knobs
from tests.servers.s3.requestlog import RequestLog
from tests.servers.s3.sigv4 import Verifier
from tests.servers.s3.store import Store


@dataclass(slots=True)
class Service:
    """The state of one server. `region` "" accepts requests signed for any region."""

    verifier: Verifier
    spool: Spool
    region: str
    store: Store = field(default_factory=Store)
    knobs: Knobs = field(default_factory=Knobs)
    log: RequestLog = field(default_factory=RequestLog)
    pattern: PatternSource = field(default_factory=PatternSource)


def spool_in(directory: str | None) -> Spool:
    return Spool(None if directory is None else Path(directory))
