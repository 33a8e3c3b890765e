# The DICOM node `scanloom listen`, on processors; docs/pacs.md says how to run it. Not built by our tests.
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/scanloom
ENV PATH=/opt/scanloom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt .
# PyTorch for processors, a tenth of the one for GPUs; the constraint is the same.
RUN pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu \
    --extra-index-url https://pypi.org/simple torch
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY networks networks
COPY transforms transforms
COPY pipeline pipeline
COPY bundles bundles
RUN pip install -c constraints.txt ".[pacs]"

FROM python:3.11-slim
COPY --from=build /opt/scanloom /opt/scanloom
ENV PATH=/opt/scanloom/bin:$PATH PYTHONUNBUFFERED=1 HOME=/data MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --uid 10001 --home-dir /data --shell /usr/sbin/nologin scanloom \
    && install --directory --owner=10001 --group=10001 --mode=700 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 11112 9100
# A C-ECHO from within; HEALTH may do it from this address only.
HEALTHCHECK --interval=60s --timeout=15s --start-period=60s --retries=3 \
    CMD ["python", "-m", "pynetdicom", "echoscu", "127.0.0.1", "11112", "-aet", "HEALTH", "-aec", "SCANLOOM"]
ENTRYPOINT ["scanloom"]
# As it is, nobody but HEALTH is let in: name your senders with --allow-aet, as compose.yaml does.
CMD ["listen", "--aet", "SCANLOOM", "--host", "0.0.0.0", "--port", "11112", "--allow-aet", "HEALTH@127.0.0.1", \
     "--bundle", "hippocampus_mr_unet", "--folder", "/data/node", "--metrics", "9100", "--metrics-host", "0.0.0.0"]
