# Shared by the scripts: find Python and the compiler, make .venv, install headrace into it. Source it from the root.
missing() { echo "headrace needs $1: on Debian or Ubuntu, apt-get install $2" >&2; exit 1; }

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$candidate"; return; }
    done
    missing "Python 3.11 or newer" "python3"
}

# environment FOLDER EXTRA...: a virtual environment that holds an editable headrace with these extras, built once and
# again when a source of the build has changed.
environment() {
    local folder=$1 extras; shift; extras=$(IFS=,; echo "$*")
    local python stamp; python=$(find_python) || exit 1; stamp="$folder/.built-${extras//,/-}"
    command -v "${CXX:-g++}" >/dev/null || missing "a C++20 compiler" "g++"
    "$python" -c 'import ensurepip' 2>/dev/null || missing "Python's venv module" "python3-venv"
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] || missing "Python's headers" "python3-dev"
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    if [ ! -f "$stamp" ] || [ -n "$(find pyproject.toml CMakeLists.txt runtime/native serve/native -newer "$stamp" -print -quit)" ]; then
        echo "installing headrace into $folder (first time: about two minutes)"
        "$folder/bin/pip" install -q --disable-pip-version-check -e ".[$extras]"
        touch "$stamp"
    fi
}
