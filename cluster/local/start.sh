#!/usr/bin/env bash
# A cluster of several processes on this machine, as a rehearsal of a real one: a head that computes nothing, two workers,
# of which one takes the drivers, and an MLflow server. Dashboard and MLflow listen on 127.0.0.1; the ports between Ray's
# processes are the machine's own address, which Ray takes whatever it is told, and all but MLflow want the token.
#   cluster/local/start.sh        then the three lines that it prints
#   cluster/local/stop.sh
# Other Ray clusters of this machine are left alone: it has ports and a folder of its own.
#   EMBEDLOOM_CLUSTER        its folder: token, logs, results; a short path, for it holds sockets  (/tmp/embedloom-USER)
#   EMBEDLOOM_CLUSTER_PORTS  the first of the ports it takes: dashboard, GCS, MLflow, four of Ray's (8265)
#   EMBEDLOOM_CLUSTER_CPUS   what each worker offers                                              (the machine's cores)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
folder=${EMBEDLOOM_CLUSTER:-/tmp/embedloom-$(id -un)}
first=${EMBEDLOOM_CLUSTER_PORTS:-8265}
cpus=${EMBEDLOOM_CLUSTER_CPUS:-$(nproc)}
dashboard=$first gcs=$((first + 1)) mlflow=$((first + 2)) client=$((first + 3)) agents=$((first + 4)) # and two more

python=$("$here/venv.sh" | tail -n 1)
mkdir -p "$folder" && chmod 700 "$folder"
if [ -f "$folder/pids" ]; then
    echo "$folder holds a cluster that was started before; end it first: cluster/local/stop.sh" >&2
    exit 2
fi
for port in $(seq "$first" $((first + 6))); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        echo "port $port is in use; set EMBEDLOOM_CLUSTER_PORTS to the first of seven others" >&2
        exit 2
    fi
done

[ -f "$folder/token" ] || (umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
cat >"$folder/env" <<EOF
export EMBEDLOOM_ADDRESS=http://127.0.0.1:$dashboard RAY_AUTH_TOKEN_PATH=$folder/token RAY_AUTH_MODE=token
export EMBEDLOOM_ROOT=$folder/results MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow
EOF
# shellcheck disable=SC1091
. "$folder/env"
mkdir -p "$EMBEDLOOM_ROOT"
# The nodes find the environment and this project as those of a real cluster do in their image.
export PATH=$(dirname "$python"):$PATH PYTHONPATH=$project RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_DATA_DISABLE_PROGRESS_BARS=1
export RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=1 # Serve replaces a proxy that was not there three times: in seconds, not half a minute
unset RAY_ADDRESS

node() { # NAME ray start's arguments
    local name=$1
    shift
    setsid ray start --block --disable-usage-stats --node-ip-address=127.0.0.1 --object-store-memory=400000000 \
        --min-worker-port=0 --max-worker-port=0 "$@" >"$folder/$name.log" 2>&1 </dev/null &
    echo "$!" >>"$folder/pids"
}

node head --head --port="$gcs" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --ray-client-server-port="$client" \
    --dashboard-agent-listen-port="$agents" --temp-dir="$folder/ray" --num-cpus=0
for _ in $(seq 120); do
    curl --silent --fail --header "Authorization: Bearer $(cat "$folder/token")" "$EMBEDLOOM_ADDRESS/api/version" >/dev/null && break
    kill -0 "$(head -n 1 "$folder/pids")" 2>/dev/null || break
    sleep 0.5
done
# One after another: Ray gives a node half a minute to come up, and on few cores several at once do not make it.
until_alive() { # HOW_MANY
    local alive=0
    for _ in $(seq 120); do
        alive=$(ray list nodes --address "$EMBEDLOOM_ADDRESS" --filter state=ALIVE --format json 2>/dev/null | grep -o '"node_id"' | wc -l) || true
        [ "$alive" = "$1" ] && return
        sleep 1
    done
    echo "$alive of $1 nodes came up; see $folder/*.log" >&2
    "$here/stop.sh" >&2
    exit 1
}
node coordinator --address="127.0.0.1:$gcs" --num-cpus="$cpus" --dashboard-agent-listen-port=$((agents + 1)) \
    --resources='{"coordinator": 4}' --labels=pool=coordinator
until_alive 2
node worker --address="127.0.0.1:$gcs" --num-cpus="$cpus" --dashboard-agent-listen-port=$((agents + 2)) --labels=pool=cpu
(cd "$folder" && python -m workflows.cli mlflow start --root "$folder" --port "$mlflow" >/dev/null)
until_alive 3
echo "Ray     $EMBEDLOOM_ADDRESS (its token: $folder/token)"
echo "MLflow  $MLFLOW_TRACKING_URI"
echo "To submit to it:"
echo "  . $folder/env"
echo "  ./embedloom submit docs-search --profile laptop"
echo "  cluster/local/stop.sh"
