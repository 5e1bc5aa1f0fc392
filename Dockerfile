# The image for machines without a GPU.
#
#   docker build -t ocr-daemon .
#   docker run -d --name ocr --stop-timeout 90 -v /srv/ocr:/srv/ocr -v ocr-state:/var/lib/ocr-daemon ocr-daemon
#
# Mount the share as one folder.  inbox/, work/, done/ and failed/ as separate volumes are separate mounts, a rename
# between mounts fails (EXDEV), and the daemon refuses to start; only an outbox may be a mount of its own.
# The state folder is a local volume, never the share.  The user is 10001:10001; to work as the owner of a share, add
# --user 1000:1000 and a state folder that this user may write.
#
# Its name is "ocr", in manifest-ocr.jsonl for one: the host name, which is used elsewhere, is another one in each
# container.  To change it say -e OCR_DAEMON__SERVICE__INSTANCE=...; it wins over a config.toml of your own.
#
# Debian's own Python is the one that the tests run on, and the steps can be executed without a container engine:
# tests/docker_steps.py.

FROM debian:12-slim AS build
# No versions: Debian 12 only changes them for security, and older ones leave the archive.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
ENV UV_SYSTEM_CERTS=true UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
WORKDIR /src
COPY requirements/ requirements/
RUN python3 -m pip install --no-cache-dir --root-user-action ignore --no-deps --only-binary :all: --require-hashes \
    --target /uv -r requirements/uv.txt
RUN /uv/bin/uv venv --python /usr/bin/python3 /opt/ocr-daemon/.venv \
 && /uv/bin/uv pip sync --compile-bytecode --python /opt/ocr-daemon/.venv/bin/python --require-hashes \
    requirements/default.txt
COPY pyproject.toml pyproject.toml
COPY README.md README.md
COPY daemon/ daemon/
COPY deepseek_ocr/ deepseek_ocr/
RUN /uv/bin/uv build --wheel --python /usr/bin/python3 --require-hashes --build-constraints requirements/build.txt \
    --out-dir /wheels . \
 && /uv/bin/uv pip install --compile-bytecode --python /opt/ocr-daemon/.venv/bin/python --no-deps /wheels/*.whl

FROM debian:12-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 ocr-daemon \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/ocr-daemon --shell /usr/sbin/nologin \
    ocr-daemon \
 && install -d -o 10001 -g 10001 -m 2775 /srv/ocr \
 && install -d -o 10001 -g 10001 -m 750 /var/lib/ocr-daemon
COPY --from=build /opt/ocr-daemon /opt/ocr-daemon
COPY config.toml /etc/ocr-daemon/config.toml
# ONNX Runtime reports to its maker unless ORT_DISABLE_TELEMETRY is set before it is loaded.
ENV PATH=/opt/ocr-daemon/.venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/var/lib/ocr-daemon ORT_DISABLE_TELEMETRY=1 \
    OCR_DAEMON__SERVICE__INSTANCE=ocr
USER 10001:10001
WORKDIR /var/lib/ocr-daemon
VOLUME ["/srv/ocr", "/var/lib/ocr-daemon"]
# SIGTERM drains; --stop-timeout above must exceed service.grace_s.
STOPSIGNAL SIGTERM
# The daemon rewrites its status every 2 s; a stale one counts as unhealthy.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["ocr-daemon", "status"]
ENTRYPOINT ["ocr-daemon"]
CMD ["run"]
