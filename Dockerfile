# The command `registry` in a container that runs as an ordinary user, with the registry in the volume /data.
#
#   docker build -t adapter-registry .
#   docker run --rm -v registry:/data -v "$PWD/models:/models" adapter-registry base add llama /models/llama
FROM python:3.11-slim AS build

# An ordinary index brings torch with CUDA, which the registry does not use. Name an index of CPU builds to save
# several GB; without it, torch comes from wherever pip is configured to look.
ARG TORCH_INDEX_URL=""

RUN python -m venv /opt/registry
ENV PATH=/opt/registry/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN if [ -n "$TORCH_INDEX_URL" ]; then pip install --index-url "$TORCH_INDEX_URL" torch; fi

WORKDIR /src
COPY pyproject.toml README.md ./
COPY registry registry
COPY alembic alembic
COPY migrations migrations
RUN pip install .

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 registry && mkdir /data && chown registry:registry /data
COPY --from=build /opt/registry /opt/registry
ENV PATH=/opt/registry/bin:$PATH REGISTRY_URL=/data/registry PYTHONDONTWRITEBYTECODE=1
USER registry
VOLUME /data
WORKDIR /models
ENTRYPOINT ["registry"]
CMD ["--help"]
