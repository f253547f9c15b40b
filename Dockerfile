# The server with exactly the packages of requirements.lock. Settings are variables; docker-compose.yml starts two nodes.

FROM python:3.11.13-slim-bookworm AS packages
COPY requirements.lock .
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock

FROM python:3.11.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/streamer streamer \
 && install --directory --owner=streamer --mode=0700 /var/lib/streamer
COPY --from=packages /opt/venv /opt/venv
COPY streamer /opt/streamer/streamer
COPY static /opt/streamer/static
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/streamer \
    STREAMER_HOST=0.0.0.0 \
    STREAMER_DATA_DIR=/var/lib/streamer
USER streamer
WORKDIR /var/lib/streamer
VOLUME /var/lib/streamer
EXPOSE 8080
# -P: do not search the current folder for modules.
ENTRYPOINT ["python", "-P", "-m", "streamer"]
CMD ["serve"]
