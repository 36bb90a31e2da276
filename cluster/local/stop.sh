#!/usr/bin/env bash
# Ends the cluster of start.sh: its own processes and no others. Results, runs and the token stay in its folder.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${EMBEDLOOM_CLUSTER:-/tmp/embedloom-$(id -un)}
python=$("$here/venv.sh" | tail -n 1)

(cd "$folder" 2>/dev/null && PYTHONPATH="$here/../.." "$python" -m workflows.cli mlflow stop --root "$folder" >/dev/null) || true
[ -f "$folder/pids" ] || { echo "none was running in $folder"; exit 0; }
for pid in $(tac "$folder/pids"); do # workers first; each node is a process group
    kill -TERM -- "-$pid" 2>/dev/null || true
done
for _ in $(seq 40); do
    left=0
    while read -r pid; do kill -0 -- "-$pid" 2>/dev/null && left=1; done <"$folder/pids"
    [ "$left" = 0 ] && break
    sleep 0.5
done
while read -r pid; do kill -KILL -- "-$pid" 2>/dev/null || true; done <"$folder/pids"
rm -rf "$folder/pids" "$folder/ray"
echo "stopped; results and runs are in $folder"
