# syntax=docker/dockerfile:1

# has gcc and the headers of libc, which SQLite, libgit2 and zstd are compiled with; nothing else is needed
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# dependencies first, in a layer of their own: they change seldom
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tests/it/main.rs \
    && cargo build --release --locked --bin remora \
    && rm -rf src
COPY . .
# a fresh time stamp, so that cargo sees that the stand-in is gone; strip keeps the image small
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin remora \
    && strip target/release/remora \
    && install -d -o 65532 -g 65532 /data

# glibc and libstdc++ (which ONNX Runtime needs, when it is mounted), certificates, no shell
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/remora /usr/local/bin/remora
COPY --from=build --chown=65532:65532 /data /data
COPY LICENSE /usr/share/doc/remora/LICENSE
USER 65532:65532
VOLUME /data
EXPOSE 4141 4142
# inside a container both must listen beyond loopback; publish 4142 to trusted networks only
ENTRYPOINT ["/usr/local/bin/remora"]
CMD ["run", "--listen", "0.0.0.0:4141", "--admin", "0.0.0.0:4142", "--data", "/data"]
