# LexAlign in a container. On the CPU:      docker build -t lexalign .
# With CUDA (the host needs NVIDIA's driver and container toolkit):
#   docker build -t lexalign:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# A run:
#   docker run --rm -v "$PWD:/work" lexalign stage=align method=gdpo
#   docker run --rm --gpus all -v "$PWD:/work" -e HF_TOKEN lexalign:cuda stage=sft model=qwen3_0_6b data=instructions data.path=my.jsonl
FROM python:3.11-slim

# torch's wheels bring their own CUDA libraries, so that both builds stand on the same small image.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.13.0
# Extras of pyproject.toml, for example [gguf,trackio]
ARG EXTRAS=""

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/work/.cache/huggingface

WORKDIR /opt/lexalign
COPY constraints.txt ./
RUN pip install "torch==${TORCH_VERSION}" --index-url "${TORCH_INDEX}"

COPY pyproject.toml README.md LICENSE ./
COPY conf ./conf
COPY lexalign ./lexalign
RUN pip install -c constraints.txt ".${EXTRAS}"

# Runs are written below the folder that is mounted at /work; any user may own it.
RUN useradd --create-home lexalign && mkdir /work && chown lexalign /work
USER lexalign
WORKDIR /work

ENTRYPOINT ["lexalign"]
