# The command `registry` as an ordinary user: the service by default, any other command by naming it.
#
#   docker build -t adapter-registry .
#   docker run --rm -v registry:/data adapter-registry token create --role admin
#   docker run -d -p 8321:8321 -v registry:/data adapter-registry
#   docker run --rm -v registry:/data -v "$PWD/models:/models" adapter-registry base add llama /models/llama
#
# Without settings the registry is a folder in the volume /data. With REGISTRY_DATABASE_URL and REGISTRY_STORE_URL
# nothing is kept in the container; see docker-compose.yml and docs/team.md.
FROM python:3.12-slim AS build

# An ordinary index brings torch with CUDA, which the registry does not use. Name an index of CPU builds to save
# several GB; without it, torch comes from wherever pip is configured to look.
ARG TORCH_INDEX=""

ENV PATH=/opt/registry/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/registry
# Apart from the source, so that a change of the source does not fetch it again.
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch; fi

WORKDIR /src
COPY pyproject.toml README.md ./
COPY registry registry
COPY adapter_registry adapter_registry
COPY alembic alembic
COPY migrations migrations
# With what adapters for llama.cpp need, a few MB. What only installs is not needed where it runs.
RUN pip install '.[gguf]' && pip uninstall --yes pip

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 registry && mkdir /data && chown registry:registry /data
COPY --from=build /opt/registry /opt/registry
# XDG_*: where the registry and the cache of fetched artifacts are, if no setting says so.
ENV PATH=/opt/registry/bin:$PATH XDG_DATA_HOME=/data XDG_CACHE_HOME=/data/cache PYTHONDONTWRITEBYTECODE=1
USER registry
VOLUME /data
WORKDIR /models
EXPOSE 8321
# That the process answers. Whether it can work, /readyz says: a database that is away is no reason to end replicas.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8321/healthz', timeout=2)"]
ENTRYPOINT ["registry"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8321"]
