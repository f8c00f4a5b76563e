# Two images from one file:
#   docker build --target operator -t pagoda .           the operator
#   docker build --target runtime  -t pagoda-runtime .   the engine
#
# The base images are arguments. A base needs python3 (3.11 or newer) with venv, nothing else;
# COMPILER_IMAGE needs g++ and python3, and a C library no newer than RUNTIME_IMAGE's.
# RUNTIME_LOCK=runtime-libs.txt with VENV_OPTIONS=--system-site-packages is for a runtime base that
# brings its own build of torch (CPU only, or a vendor's). A runtime base for GPUs has gcc and Python's
# headers too: Triton compiles what it talks to the driver through when an engine starts.
#
# Optional build secrets, so that nothing about the builder's network ends up in a layer:
#   pip_conf   a pip.conf (mirror, proxy)          ca_bundle   certificates that it may point to
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim
ARG RUNTIME_IMAGE=${PYTHON_IMAGE}
ARG COMPILER_IMAGE=docker.io/library/gcc:12

# --- operator ---------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS operator-deps
COPY requirements/operator.txt /src/
# The virtual environment has no pip in it: pip works on it from the outside and stays behind.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    python3 -m venv /tools && python3 -m venv --without-pip /opt/pagoda \
    && /tools/bin/pip --python /opt/pagoda/bin/python install --no-cache-dir --no-compile \
       --disable-pip-version-check --require-hashes -r /src/operator.txt \
    && /opt/pagoda/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/pagoda/lib

FROM operator-deps AS operator-app
# The build backend is locked as well: no unlocked package takes part in a build.
COPY requirements/build.txt /src/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    /tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
       -r /src/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE /src/
COPY operator /src/operator
# Installed below /app, so that the final image gets dependencies and project as two layers and a
# change of the sources replaces only the small one. The other program's launcher would be dead.
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --no-index -q -w /wheels /src \
    && /tools/bin/pip --python /opt/pagoda/bin/python install --no-deps --no-index --no-compile \
       --disable-pip-version-check --root /app /wheels/*.whl \
    && rm /app/opt/pagoda/bin/pagoda-runtime \
    && /opt/pagoda/bin/python -m compileall -q --invalidation-mode unchecked-hash \
       -s /app -p / /app/opt/pagoda/lib

FROM ${PYTHON_IMAGE} AS operator
LABEL org.opencontainers.image.title="pagoda" \
      org.opencontainers.image.description="Kubernetes operator that serves large language models" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=operator-deps /opt/pagoda /opt/pagoda
COPY --from=operator-app /app/ /
# Read-only root friendly: byte code is precompiled and only /tmp is ever written. USER as a
# variable: kopf and torch ask for the user's name, which a numeric user has not got.
ENV PATH=/opt/pagoda/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=pagoda \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["pagoda"]

# --- runtime ----------------------------------------------------------------------------------
FROM ${RUNTIME_IMAGE} AS runtime-deps
ARG RUNTIME_LOCK=runtime.txt
ARG VENV_OPTIONS=
COPY requirements/${RUNTIME_LOCK} /src/runtime.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    python3 -m venv /tools && python3 -m venv --without-pip ${VENV_OPTIONS} /opt/pagoda \
    && /tools/bin/pip --python /opt/pagoda/bin/python install --no-cache-dir --no-compile \
       --disable-pip-version-check --require-hashes -r /src/runtime.txt \
    && /opt/pagoda/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/pagoda/lib

# The only stage that compiles.
FROM ${COMPILER_IMAGE} AS runtime-native
COPY runtime/csrc /csrc
RUN python3 /csrc/build.py /out/libpagoda.so

FROM runtime-deps AS runtime-app
COPY requirements/build.txt /src/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    /tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
       -r /src/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE /src/
COPY runtime /src/runtime
COPY --from=runtime-native /out/libpagoda.so /src/runtime/pagoda_runtime/native/
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --no-index -q -w /wheels /src \
    && /tools/bin/pip --python /opt/pagoda/bin/python install --no-deps --no-index --no-compile \
       --disable-pip-version-check --root /app /wheels/*.whl \
    && rm /app/opt/pagoda/bin/pagoda \
    && /opt/pagoda/bin/python -m compileall -q --invalidation-mode unchecked-hash \
       -s /app -p / /app/opt/pagoda/lib

FROM ${RUNTIME_IMAGE} AS runtime
LABEL org.opencontainers.image.title="pagoda-runtime" \
      org.opencontainers.image.description="The embedded inference engine of Pagoda" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=runtime-deps /opt/pagoda /opt/pagoda
COPY --from=runtime-app /app/ /
# LD_LIBRARY_PATH: where GKE's device plugin mounts the driver's libraries. NVIDIA's container toolkit
# puts them where the loader looks anyway.
ENV PATH=/opt/pagoda/bin:/usr/local/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    HOME=/tmp \
    USER=pagoda \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["pagoda-runtime"]
