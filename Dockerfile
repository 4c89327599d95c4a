# Sidekey and the CA roots, nothing else: no shell, no package manager, no root.
FROM --platform=$BUILDPLATFORM golang:1.27 AS build
# The image pins GOTOOLCHAIN=local; go.mod may name a newer patch release.
ENV GOTOOLCHAIN=auto CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
ARG TARGETOS
ARG TARGETARCH
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION" -o /sidekey ./cmd/sidekey

FROM scratch
LABEL org.opencontainers.image.title="sidekey" \
      org.opencontainers.image.description="A sidecar that puts short-lived credentials on an agent's outbound requests" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /sidekey /sidekey
# A number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 65532:65532
# The agent's side is loopback only and is not published; 3129 is /livez, /readyz and /startedz.
EXPOSE 3129
ENTRYPOINT ["/sidekey"]
CMD ["serve", "--config", "/etc/sidekey/config.yaml"]
