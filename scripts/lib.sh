# Sourced by run, test, check and bench: what must be on this machine, and how it gets there.
# Everything here may be run again at any time and does nothing when nothing is missing.
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
constraints=$root/scripts/constraints.txt
me=scripts/$(basename -- "$0")

say() { printf '%s\n' "$*" >&2; }
die() { say "$me: $*"; exit 1; }

# One line and exit 1 where mountd is known not to run. $1 is an os-release file.
require_supported_system() {
    local file=$1 id version
    [ -r "$file" ] || return 0
    # shellcheck disable=SC1090
    id=$(. "$file" && printf %s "${ID:-}")
    # shellcheck disable=SC1090
    version=$(. "$file" && printf %s "${VERSION_ID:-}")
    case $id in
        debian) at_least "$version" 12 || die "Debian $version is too old: 12 or newer is needed" ;;
        ubuntu) at_least "$version" 24.04 || die "Ubuntu $version is too old: 24.04 or newer is needed" ;;
    esac
}

# Debian testing has no VERSION_ID: an empty version counts as new.
at_least() { [ -z "$1" ] || [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# ---- system packages

# Runs a command as root: directly, or through sudo. Fails where neither is possible.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

# Installs Debian packages; dies with the admin's command where it can't.
install_packages() {
    [ $# -gt 0 ] || return 0
    local command="apt-get install -y --no-install-recommends $*" log
    command -v apt-get >/dev/null ||
        die "this system has no apt; what is needed, by its Debian names: $*"
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "can't install $*: not root, and no sudo here. The admin's command: $command"
    fi
    say "installing $*"
    log=$(mktemp)
    # A failing update is not the end: one broken third-party source must not stop us.
    as_root apt-get update -qq >"$log" 2>&1 || true
    # 9 is the lock of ensure_venv; a service that a package starts must not go on holding it.
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1 9<&-; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        die "could not install $*. The command was: $command"
    fi
    rm -f "$log"
}

# Prints the packages of PAIRS (command:package) whose command is not there.
missing_packages() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair#*:}"
    done
}

# ---- Python

# Prints the first Python >= 3.11; $PYTHON goes first. Nothing where there is none.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

python_has() { "$1" -c "$2" >/dev/null 2>&1; }

# pyfuse3 comes as source: a compiler and the headers of libfuse and Python. Sets `python`.
install_build_needs() {
    local needed
    python=$(find_python)
    mapfile -t needed < <(
        missing_packages fusermount3:fuse3 pkg-config:pkg-config cc:gcc
        pkg-config --exists fuse3 2>/dev/null || echo libfuse3-dev
        [ -e /usr/include/stdlib.h ] || echo libc6-dev
        [ -n "$python" ] || echo python3
        # Debian's own Python may lack these two; any other has them, or can't get them from apt.
        case $(readlink -f "${python:-/usr/bin/python3}") in
            /usr/bin/* | "")
                python_has "$python" 'import ensurepip' || echo python3-venv
                python_has "$python" 'import os, sysconfig
os.stat(sysconfig.get_path("include") + "/Python.h")' || echo python3-dev
                ;;
        esac
    )
    install_packages "${needed[@]}"
    ensure_mtab
    python=$(find_python)
    [ -n "$python" ] || die "Python 3.11 or newer is needed; PYTHON=/path/to/python3 names one"
}

# A user's fusermount3 reads /etc/mtab before it unmounts anything. systemd and Docker make the link;
# bare images and other container runtimes do not. Root mounts and unmounts without it.
ensure_mtab() {
    [ -e /etc/mtab ] || as_root ln -s ../proc/self/mounts /etc/mtab 2>/dev/null ||
        say "$me: there is no /etc/mtab, so you can't unmount. The admin's command:" \
            "ln -s ../proc/self/mounts /etc/mtab"
}

# What the virtual environment was made from. Another pyproject, folder or Python makes another stamp.
stamp_of() {
    { echo "$root"; cat "$root/pyproject.toml" "$constraints"; readlink -f "$venv/bin/python"; } | sha256sum
}

# ensure_venv EXTRA: mountd with that extra in .venv, editable. A matching stamp returns at once
# (15 ms), so that a second start waits for nothing. The stamp is written last: what was interrupted is
# done again. Two at once wait for each other.
ensure_venv() {
    local extra=$1
    local stamp=$venv/.stamp-$extra
    venv_is_ready "$stamp" && return
    require_supported_system /etc/os-release
    # The lock is on the folder itself: no file to leave behind. Closed again, so no daemon inherits it.
    exec 9<"$root"
    flock 9
    venv_is_ready "$stamp" || make_venv "$extra" "$stamp"
    exec 9<&-
}

venv_is_ready() {
    command -v fusermount3 >/dev/null && [ -r "$1" ] && [ "$(cat "$1")" = "$(stamp_of)" ]
}

make_venv() {
    local python
    install_build_needs
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        ! python_has "$venv/bin/python" 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        "$python" -m venv --clear "$venv" || die "$python can't make a virtual environment in $venv"
    fi
    say "installing Python packages into .venv (a minute or two, once)"
    # Without the constraints pip tries botocore's daily versions one by one: over 9 minutes, not 1.
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check -c "$constraints" \
        -e "${root}[$1]" >&2 9<&- ||
        die "pip could not install mountd[$1]; what it said is above"
    [ "$1" != dev ] || stamp_of >"$venv/.stamp-all" # dev contains all
    stamp_of >"$2"
}
