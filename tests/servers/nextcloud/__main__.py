"""`python -m tests.servers.nextcloud --port 0`: see the package's docstring."""

import argparse

from tests.servers.nextcloud.server import Options, Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--data", help="directory on whose file system uploads are spooled")
    parser.add_argument("--user", default="tester")
    parser.add_argument("--password", default="correct horse")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin does")
    given = parser.parse_args()
    Server(Options(given.user, given.password, given.port, given.data, given.exit_with_stdin)).run()


if __name__ == "__main__":
    main()
