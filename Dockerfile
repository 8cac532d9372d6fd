# The master in a container, from a checkout: docker build -t pccl-master . (docs/packages.md says how to run it)
ARG SWIFT_IMAGE=swift:6.3-bookworm

FROM ${SWIFT_IMAGE} AS build
WORKDIR /swift-pccl
# patchelf is what `make deb` needs beyond `make lib`, which fetches the rest itself.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends patchelf && rm -rf /var/lib/apt/lists/*
COPY . .
RUN make deb

FROM debian:bookworm-slim
# The versions are those of Debian's release.
# hadolint ignore=DL3008
RUN --mount=type=bind,from=build,source=/swift-pccl/dist/deb,target=/packages \
    apt-get update && \
    apt-get install -y --no-install-recommends /packages/pccl-tools_*.deb && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 48148 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pccl && \
    install -d -o 48148 -g 48148 -m 700 /var/lib/pccl
# By number, so that it is seen not to be root.
USER 48148:48148
# Where the master keeps its journal. Mounted, it outlives the container, and the run goes on with the next one.
ENV STATE_DIRECTORY=/var/lib/pccl
VOLUME /var/lib/pccl
EXPOSE 48148
ENTRYPOINT ["pccl-master"]
