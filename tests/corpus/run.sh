#!/usr/bin/env bash
# The release binary against recorded agent runs and the official OpenAI client. Usage: run.sh [options of check.py]
#
# The corpus is a folder with replay/ and traces/ in it, beside this repository unless REMORA_CORPUS names another.
# Without one only the client's check runs, and that is said loudly.
set -euo pipefail
cd "$(dirname "$0")/../.."

corpus=${REMORA_CORPUS:-../shared}
target=${CARGO_TARGET_DIR:-target}

cargo build --release --locked

venv=$target/client-venv
if ! "$venv/bin/python" -c 'import openai' 2> /dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
fi

only=()
if [ -x "$corpus/replay/run_corpus.sh" ] && [ -d "$corpus/traces" ] && command -v zstd > /dev/null; then
  only=(--corpus "$corpus")
else
  cat >&2 <<LOUD
******************************************************************************************
*** SKIPPED: the corpus runs (assembly, lessons, nights on recorded traffic).
*** There is no corpus at '$corpus', or the program zstd is missing.
******************************************************************************************
LOUD
  only=(--only client)
fi
exec python3 tests/corpus/check.py --remora "$target/release/remora" --client-python "$venv/bin/python" "${only[@]}" "$@"
