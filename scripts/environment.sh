# Sourced by the other scripts: makes the virtual environment .venv of this checkout and installs kpref into it.
# Afterwards $python is its interpreter. KPREF_PYTHON names the interpreter to make it with.

fail() {
    echo "$(basename "$0"): error: $*" >&2
    exit 1
}

# An interpreter counts only if it runs, is new enough and can make a virtual environment with pip in it:
# a version manager may leave names on the path that lead nowhere, and Debian keeps ensurepip apart.
is_usable() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${KPREF_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if is_usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

make_environment() {
    python="$PWD/.venv/bin/python"
    if [ -e .venv ] && "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 11))' >/dev/null 2>&1; then
        fail "$PWD/.venv has a Python older than 3.11; remove that folder and run this again"
    fi
    # A checkout that was moved, or a first run that was cut short, leaves an environment without a working pip.
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        local base
        base=$(find_python) || fail "no Python 3.11 or newer with the modules venv and ensurepip was found" \
            "(tried: ${KPREF_PYTHON:-python3.13 python3.12 python3.11 python3 python}; on Debian and Ubuntu," \
            "install python3-venv; KPREF_PYTHON=/path/to/python names another)"
        echo "making .venv with $("$base" --version)" >&2
        "$base" -m venv --clear .venv
    fi
}

# install_kpref EXTRAS: an editable install with these extras ("" for none, "test", "test,dev,..."), left out where the
# last one was for the same extras, pyproject.toml and folder.
install_kpref() {
    local stamp=".venv/kpref-installed-${1:-core}" key
    key=$(printf '%s\n' "$PWD" | cat - pyproject.toml | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
        echo "installing kpref${1:+ with $1} into .venv (a few minutes the first time)" >&2
        "$python" -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
        printf '%s\n' "$key" >"$stamp"
    fi
}
