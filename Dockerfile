# clf with the packages of requirements.lock; torch brings CUDA with it, so the machine needs the driver alone.
#   docker build -t clf .
#   docker run --rm --init --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" -v /my/images:/my/images:ro \
#       clf train --data /my/images
# apptainer.def makes the same for Apptainer. tests/slurm/test_container.py compares the two.
FROM python:3.11-slim-bookworm

# deepspeed comes as source: without its compiled kernels it needs no compiler. torch.compile needs one at run time.
ENV DS_BUILD_OPS=0 PYTHONUNBUFFERED=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libjpeg62-turbo-dev \
    && rm -rf /var/lib/apt/lists/*

# What is large and seldom changes, before the code.
WORKDIR /opt/clf
COPY pyproject.toml requirements.lock ./
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --compile-bytecode --constraint requirements.lock --requirement pyproject.toml \
    --extra jersey --extra timm --extra duplicates --extra safetensors --extra parquet --extra export \
    --extra dashboard --extra label_errors

COPY README.md ./
COPY clf clf
COPY launch launch
COPY slurm slurm
COPY configs configs
RUN uv pip install --system --no-cache --compile-bytecode --no-deps --no-build-isolation . && rm -rf /opt/clf/*

# Whoever runs it, with --user too, has a home and a name, which torch.compile's cache asks for.
RUN useradd --uid 1000 --create-home clf && mkdir /work && chmod 1777 /home/clf /work
ENV HOME=/home/clf USER=clf
USER 1000
WORKDIR /work
ENTRYPOINT ["clf"]
CMD ["--help"]
