# OpenBao, from the program that scripts/openbao fetches. The context is that program's folder and bao.hcl: docker/images puts them together.
ARG BASE=debian:bookworm-slim
FROM $BASE
RUN groupadd -g 5432 openbao && useradd -u 5432 -g openbao -d /var/lib/openbao openbao && \
    install -d -m 700 -o openbao -g openbao /var/lib/openbao /etc/openbao/id
COPY bao /usr/local/bin/bao
COPY bao.hcl /etc/openbao/bao.hcl
ENV BAO_ADDR=https://localhost:8200 BAO_CACERT=/etc/openbao/id/ca.crt
USER 5432:5432
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["bao", "status"]
CMD ["bao", "server", "-config=/etc/openbao/bao.hcl"]
