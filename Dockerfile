# Both stages use one base, because the virtual environment links to its Python. The digest is that of the tag's index for
# all architectures, as of September 2026. `make base` prints the tag's present digest.
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS builder
# PyPI's torch for x86 installs gigabytes of CUDA libraries. This index has the same release built for the CPU. It is
# used for torch only.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/acclimate
COPY requirements.lock torch.lock ./
# pip compiles the packages to bytecode, which is impossible later on a read-only root. The locks (`make lock`) list every
# package with its hashes, so that nothing else is resolved or installed.
RUN --mount=type=cache,target=/root/.cache/pip /opt/acclimate/bin/pip install --compile --no-deps --require-hashes \
    --index-url ${TORCH_INDEX_URL} -r torch.lock
RUN --mount=type=cache,target=/root/.cache/pip /opt/acclimate/bin/pip install --compile --no-deps --require-hashes \
    -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY service service
RUN /opt/acclimate/bin/pip install --compile --no-deps --no-index --no-build-isolation . \
    && /opt/acclimate/bin/pip check

FROM ${BASE}
# The base image has no bytecode of the standard library; without it, every start would take over a second longer.
RUN python -m compileall -q -x site-packages /usr/local/lib/python3.11 \
    && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin acclimate \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=builder /opt/acclimate /opt/acclimate

# Only /data and /tmp are writable, so HOME is /tmp for libraries that keep a cache there.
# ONNX Runtime sends usage data to Microsoft by default; this switches it off.
ENV PATH=/opt/acclimate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    ACCLIMATE_HOST=0.0.0.0 \
    ACCLIMATE_PORT=8000 \
    ACCLIMATE_DATA=/data \
    ACCLIMATE_KEYS_FILE=/data/keys

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM

# The slim image has no curl. Unlike urllib, http.client never uses a proxy. -I imports no module from /data, and -B
# writes no bytecode.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-IB", "-c", "\
import http.client, os, sys; \
server = http.client.HTTPConnection('127.0.0.1', int(os.environ['ACCLIMATE_PORT']), timeout=4); \
server.request('GET', '/v2/health/ready'); \
sys.exit(server.getresponse().status != 200)"]

ENTRYPOINT ["acclimate"]
CMD ["serve", "--first-key"]
