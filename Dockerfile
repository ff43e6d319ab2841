# orsanet in a container: docker build --tag orsanet .                              PyTorch without CUDA
#                         docker build --tag orsanet-cuda --build-arg TORCH=cuda .   with CUDA, for `docker run --gpus all`
# docs/install.md has how to run it. The versions are those of requirements.lock, which the tests run with.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
# cpu or cuda
ARG TORCH=cpu
# Where torch and torchvision without CUDA come from; another index than PyPI, so the hashes of the lock are not theirs.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY requirements.lock ./
# uv is taken from the lock too; it holds every package to the hashes of its constraints.
RUN awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements.lock > uv.txt \
    && pip install --no-cache-dir --require-hashes --requirement uv.txt \
    && uv venv /opt/orsanet
COPY pyproject.toml README.md LICENSE ./
COPY manifests manifests
COPY orsanet_cache orsanet_cache
COPY orsanet_train orsanet_train
RUN if [ "$TORCH" = cpu ]; then \
        awk '/^[a-z]/ { skip = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !skip' requirements.lock > constraints.txt; \
        awk -F '[= ]+' '/^(torch|torchvision)==/ { print $1 "==" $2 "+cpu" }' requirements.lock > torch.txt; \
        uv pip install --no-cache --python /opt/orsanet --no-deps --index "$CPU_INDEX" --requirement torch.txt; \
    elif [ "$TORCH" = cuda ]; then \
        cp requirements.lock constraints.txt; \
    else \
        echo "TORCH=$TORCH: give cpu or cuda" >&2; exit 1; \
    fi \
    && uv pip install --no-cache --python /opt/orsanet --build-constraint requirements.lock --constraint constraints.txt ".[plots,export]"

FROM python:${PYTHON}-slim-bookworm
# OpenCV needs both. The security updates of Debian are wanted, so there is no version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home orsanet \
    && install --directory --owner orsanet --group orsanet /data
COPY --from=build /opt/orsanet /opt/orsanet
# Downloaded weights stay in the mounted folder. matplotlib's own files need a place that every user may write.
ENV PATH=/opt/orsanet/bin:$PATH XDG_CACHE_HOME=/data/.cache MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
CMD ["orsanet-cache", "--help"]
