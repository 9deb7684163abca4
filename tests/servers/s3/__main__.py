"""`python -m tests.servers.s3 --port 0`: see the package's docstring."""

import argparse

from tests.servers.s3.server import Options, Server
from tests.servers.s3.sigv4 import Credentials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--data", help="directory on whose file system uploads are spooled")
    parser.add_argument("--access-key", default="AKIDEXAMPLE")
    parser.add_argument("--secret-key", default="SECRETEXAMPLE")
    parser.add_argument("--session-token", help="requests must carry it")
    parser.add_argument("--region", default="us-east-1", help='"": any')
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin does")
    given = parser.parse_args()
    credentials = Credentials(given.access_key, given.secret_key, given.session_token)
    options = Options(credentials, given.port, given.region, given.data, given.exit_with_stdin)
    Server(options).run()


if __name__ == "__main__":
    main()
