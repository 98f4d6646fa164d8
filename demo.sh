#!/usr/bin/env bash
# From data to answers: trains four models on real data, serves them, calls them. `make demo` runs it.
# A second run trains nothing again. `bash demo.sh train` stops after training.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

OUT=demo
MODELS=$OUT/models
LOG=$OUT/server.log
SERVER=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Shows a command as a person would type it, then runs it.
run() {
    printf '\033[36m$ %s\033[0m\n' "$*"
    "$@"
}

train() {
    local recipe=$1
    shift
    if compgen -G "$MODELS/$recipe/*/manifest.json" >/dev/null; then
        echo "$recipe is trained already"
    else
        run forwardpass-train run "$recipe" "$@" --models $MODELS --runs $OUT/runs
    fi
}

stop() {
    if [ -n "$SERVER" ]; then
        kill -TERM "$SERVER"
        wait "$SERVER"
        SERVER=
    fi
}

# Starts the server on free ports, and waits until its log says that it is ready.
serve() {
    forwardpass-serve $MODELS --port 0 --metrics-port 0 --log-format json 2>$LOG &
    SERVER=$!
    trap stop EXIT
    until grep -q '"event": "ready"' $LOG; do
        if ! kill -0 $SERVER 2>/dev/null || grep -q '"event": "not_ready"' $LOG; then
            cat $LOG >&2
            exit 1
        fi
        sleep 0.05
    done
    FORWARDPASS_SERVER=$(sed -n 's/.*"address": "\([^"]*\)".*/\1/p' $LOG)
    METRICS=$(sed -n 's/.*"metrics": "\([^"]*\)".*/\1/p' $LOG)
    export FORWARDPASS_SERVER
}

mkdir -p $OUT
say "1. Train: real data, checked ONNX artefacts"
train digits-mlp
train mnist-cnn
train mnist-resnet
train mnist-gan preset=demo
if [ "${1:-}" = train ]; then
    exit
fi

say "2. Take pictures from the test set, which no model has learned from"
run forwardpass-train fetch mnist --pictures $OUT/pictures

say "3. Serve"
echo "\$ forwardpass-serve $MODELS"
serve
tail -n 1 $LOG
run forwardpass models

say "4. Predict: a PNG in, a class out"
run forwardpass predict mnist-cnn $OUT/pictures/7/0.png $OUT/pictures/3/0.png

say "5. Embed: pictures in, vectors out, and who is near whom"
run forwardpass embed $OUT/pictures --model mnist-resnet --normalize --out $OUT/vectors.parquet \
    --neighbours 5 --neighbours-grid $OUT/neighbours.png

say "6. Generate: a seed in, digits out"
run forwardpass generate mnist-gan --count 64 --seed 7 --out $OUT/digits.png

say "7. Metrics"
echo "\$ curl http://$METRICS/metrics"
python -c "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())" \
    "http://$METRICS/metrics" | grep -E '^(grpc_server_handled|nv_inference_count|forwardpass_model_info)'

say "8. Stop"
stop
tail -n 1 $LOG

say "Pictures to look at"
ls $OUT/*.png $MODELS/*/*/plots/*.png

say "Next"
sed -n '/ends with these commands/,/^```$/s/^\$/    $/p' README.md
