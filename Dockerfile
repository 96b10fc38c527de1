# Postern's server and command line. This file has not been built where Postern is developed, because no
# container engine runs there; it is held to what `cargo build` does on Debian 12, which is.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package postern \
    && install -D target/release/postern /out/postern

FROM debian:bookworm-slim
# The clouds' certificates. Postgres is elsewhere; `postern demo` is for a machine, not for a container.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin postern
COPY --from=build /out/postern /usr/local/bin/postern
COPY LICENSE /usr/share/doc/postern/LICENSE
USER 10001:10001
EXPOSE 8090
ENTRYPOINT ["/usr/local/bin/postern"]
CMD ["serve", "--config", "/etc/postern/postern.toml"]
