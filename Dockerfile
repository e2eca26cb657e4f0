# Serves the bundle mounted at /bundle: docs/serving.md says how to run it.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 medclf
WORKDIR /src
COPY pyproject.toml setup.cfg constraints.txt README.md LICENSE ./
COPY medclf ./medclf
# PIP_ARGS: for instance the index that has PyTorch without CUDA, which is gigabytes smaller.
ARG PIP_ARGS=""
RUN pip install --no-cache-dir -c constraints.txt ${PIP_ARGS} ".[serve,dicom]" && rm -rf /src/*

USER medclf
WORKDIR /home/medclf
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/readyz')"]
# exec: the service itself gets SIGTERM, and stops gracefully. It asks for MEDCLF_TOKEN.
CMD ["sh", "-c", "exec medclf serve /bundle --host 0.0.0.0 --port $PORT"]
