# Two stages: the compiler stays in the first; the second holds Python, the environment, and nothing else. pip's bytecode stays: a
# read-only image can write none, and compiling at each start would take longer than the start.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev python3-venv libnghttp2-dev libssl-dev zlib1g-dev
RUN python3 -m venv /opt/headrace
COPY . /src
RUN /opt/headrace/bin/pip install --no-cache-dir --disable-pip-version-check /src \
    && /opt/headrace/bin/pip uninstall -y --disable-pip-version-check pip setuptools \
    && find /opt/headrace -name tests -path '*/numpy/*' -o -name test -path '*/onnx/backend/*' | xargs rm -rf

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 libnghttp2-14 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin headrace && mkdir -p /mnt/models
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER headrace
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/live', timeout=2)"]
ENTRYPOINT ["headrace"]
CMD ["serve", "--model-store=/mnt/models", "--host=0.0.0.0"]
