# densespec on a CPU, as a command:
#
#   docker build -t densespec .
#   docker run --rm -v "$PWD:/work" densespec inspect densenet121.pth
#   docker build -t densespec-jax --build-arg EXTRAS=jax,hdf5 .
FROM python:3.12-slim AS built
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG EXTRAS=torch,hdf5,hub,data,draw
COPY --from=built /wheels /wheels
COPY constraints.txt /wheels/
# PyTorch's own index has wheels without CUDA, which the versions of constraints.txt mean.
RUN python -m pip install --no-cache-dir --constraint /wheels/constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu \
        "densespec[${EXTRAS}] @ file://$(echo /wheels/*.whl)" \
    && useradd --create-home densespec
USER densespec
WORKDIR /work
ENTRYPOINT ["densespec"]
CMD ["--help"]
